//! The unlock key of managers.

use overlay_core::Seed;

use super::*;
use crate::identity::UnlockKey;

#[test]
fn an_unlock_key_stays_until_it_is_replaced_or_locking_ends() {
    let mut lab = Lab::new();
    let key = |number| Some(UnlockKey::random(&mut Seed::from_u64(number).rng()));
    let lock = |unlock, rotate| Command::LockManagers { unlock, rotate };
    let kept = |lab: &Lab| lab.state.cluster().unwrap().unlock_key.clone();
    assert_eq!(kept(&lab), None);
    assert_eq!(lab.refused(lock(key(1), true)), CommandError::NotLocked);
    assert_eq!(kept(&lab), None);
    for (command, expected) in [
        (lock(None, false), None),
        (lock(key(1), false), key(1)),
        // Asked for once more, with another key that nobody has seen yet.
        (lock(key(2), false), key(1)),
        (lock(key(3), true), key(3)),
        (lock(None, false), None),
        (lock(key(4), false), key(4)),
    ] {
        assert_eq!(lab.apply(command), Ok(Outcome::UnlockKey));
        assert_eq!(kept(&lab), expected);
    }
}
