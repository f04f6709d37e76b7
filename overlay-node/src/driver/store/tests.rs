//! A data directory that is opened, locked, stolen and interrupted.

use overlay_core::Rng;

use super::*;

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("overlay-store-{name}-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn key_file(&self) -> Vec<u8> {
        fs::read(self.0.join(KEY)).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Identity {
    /// Reads what a daemon that runs has in its directory.
    pub(crate) fn of_running(path: &Path) -> Self {
        let keys = read_key_file(path).unwrap().unwrap().open(None).unwrap();
        let node = sealed(&path.join(NODE), &keys.current()).unwrap();
        serde_json::from_slice(&node.read(IDENTITY).unwrap()).unwrap()
    }
}

fn rng() -> Rng {
    seed().unwrap().rng()
}

fn identity() -> Identity {
    Identity {
        format: FORMAT,
        node: NodeId::from_bytes([1; 16]),
        cluster: NodeId::from_bytes([2; 16]),
        epoch: 0,
        raft: None,
        address: [127, 0, 0, 1].into(),
        is_fixed: false,
        credentials: Credentials {
            authority: String::new(),
            certificate: String::new(),
            key: Secret::any(CANARY.to_vec()),
            issuer: [0; 32],
        },
        key: Secret::random(&mut rng()),
        life: 7,
        seeds: Vec::new(),
    }
}

/// Opens the log's directory and appends to a file there.
fn write_log(store: &Store) -> SealedDisk<FileDisk> {
    let mut raft = store.raft().unwrap();
    raft.append("log", CANARY).unwrap();
    raft.sync("log").unwrap();
    raft
}

fn files(path: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let contents = entries.map(|path| match path.is_dir() {
        true => files(&path),
        false => vec![fs::read(path).unwrap()],
    });
    contents.flatten().collect()
}

#[test]
fn a_directory_has_one_daemon() {
    let scratch = Scratch::new("one");
    let path = &scratch.0;
    let store = Store::open(path).unwrap();
    assert!(matches!(Store::open(path), Err(StoreError::InUse { .. })));
    assert_eq!(store.identity().unwrap(), None);
    assert_eq!(store.memory().unwrap(), AgentMemory::default());
    store.replace(IDENTITY, b"{").unwrap();
    assert!(matches!(store.identity(), Err(StoreError::Damaged { .. })));
    store.clear().unwrap();
    assert_eq!(store.identity().unwrap(), None);
    drop(store);
    Store::open(path).unwrap();
}

#[test]
fn what_was_written_is_there_after_a_restart_and_not_in_clear() {
    let scratch = Scratch::new("sealed");
    let store = Store::open(&scratch.0).unwrap();
    let identity = identity();
    store.save_identity(&identity).unwrap();
    write_log(&store);
    drop(store);
    let stored = files(&scratch.0);
    assert!(stored.len() >= 4, "lock, key, identity and log");
    for content in stored {
        let mut parts = content.windows(CANARY.len());
        assert!(!parts.any(|part| part == CANARY));
    }
    let store = Store::open(&scratch.0).unwrap();
    assert_eq!(store.identity().unwrap(), Some(identity));
    assert_eq!(store.raft().unwrap().read("log").unwrap(), CANARY);
}

#[test]
fn a_locked_directory_opens_with_its_unlock_key_only() {
    let scratch = Scratch::new("locked");
    let store = Store::open(&scratch.0).unwrap();
    store.save_identity(&identity()).unwrap();
    let mut raft = write_log(&store);
    let (unlock, other) = (UnlockKey::random(&mut rng()), UnlockKey::random(&mut rng()));
    assert!(store.is_kept_under(None) && !store.is_kept_under(Some(&unlock)));
    let former = scratch.key_file();
    let key = store.keep_under(Some(&unlock)).unwrap().unwrap();
    raft.rekey(&key).unwrap();
    store.log_settled(raft.key_id()).unwrap();
    assert!(store.is_kept_under(Some(&unlock)));
    drop((store, raft));

    let store = Store::open(&scratch.0).unwrap();
    assert!(store.is_locked() && !store.is_kept_under(Some(&unlock)));
    assert!(matches!(store.identity(), Err(StoreError::Locked { .. })));
    assert!(matches!(store.raft(), Err(StoreError::Locked { .. })));
    assert!(!store.unlock(&other).unwrap() && store.is_locked());
    assert!(store.unlock(&unlock).unwrap() && !store.is_locked());
    assert_eq!(store.identity().unwrap(), Some(identity_of(&store)));
    assert_eq!(store.raft().unwrap().read("log").unwrap(), CANARY);
    drop(store);

    // Who had the key file while it was open has nothing by it.
    let locked = scratch.key_file();
    fs::write(scratch.0.join(KEY), former).unwrap();
    let store = Store::open(&scratch.0).unwrap();
    let refused = store.identity().unwrap_err();
    let is_wrong = matches!(
        &refused,
        StoreError::Disk {
            source: DiskError::WrongKey { .. },
            ..
        }
    );
    assert!(is_wrong, "{refused}");
    assert!(store.raft().unwrap().read("log").is_err());
    drop(store);

    // Open again, by who knows the unlock key.
    fs::write(scratch.0.join(KEY), locked).unwrap();
    let store = Store::open(&scratch.0).unwrap();
    assert!(store.unlock(&unlock).unwrap());
    assert!(store.keep_under(None).unwrap().is_none());
    drop(store);
    let store = Store::open(&scratch.0).unwrap();
    assert!(!store.is_locked());
    assert_eq!(store.raft().unwrap().read("log").unwrap(), CANARY);
}

fn identity_of(store: &Store) -> Identity {
    store.identity().unwrap().unwrap()
}

#[test]
fn a_key_that_takes_over_does_so_whatever_interrupts_it() {
    let unlock = UnlockKey::random(&mut rng());
    for steps in 0..3 {
        let scratch = Scratch::new(&format!("interrupted-{steps}"));
        let store = Store::open(&scratch.0).unwrap();
        store.save_identity(&identity()).unwrap();
        let mut raft = write_log(&store);
        let key = store.keep_under(Some(&unlock)).unwrap().unwrap();
        if steps > 0 {
            raft.rekey(&key).unwrap();
        }
        if steps > 1 {
            store.log_settled(raft.key_id()).unwrap();
        }
        drop((store, raft));
        // And once more, before the log is opened.
        for _ in 0..2 {
            let store = Store::open(&scratch.0).unwrap();
            assert!(store.unlock(&unlock).unwrap());
            assert_eq!(identity_of(&store).life, 7, "after {steps} steps");
        }
        let store = Store::open(&scratch.0).unwrap();
        assert!(store.unlock(&unlock).unwrap());
        let raft = store.raft().unwrap();
        assert_eq!(raft.read("log").unwrap(), CANARY, "after {steps} steps");
        assert_eq!(raft.key_id(), key_id(&key), "after {steps} steps");
        let settled = store.opened(|_, opened| Ok(opened.keys.next().is_none()));
        assert!(settled.unwrap(), "after {steps} steps");
        assert_eq!(identity_of(&store).life, 7, "after {steps} steps");
    }
}

/// Returns the identity of a key.
fn key_id(key: &DataKey) -> u64 {
    let scratch = Scratch::new("identity");
    sealed(&scratch.0, key).unwrap().key_id()
}

#[test]
fn a_worker_has_no_log_to_wait_for() {
    let scratch = Scratch::new("worker");
    let store = Store::open(&scratch.0).unwrap();
    store.save_identity(&identity()).unwrap();
    let unlock = UnlockKey::random(&mut rng());
    assert!(store.keep_under(Some(&unlock)).unwrap().is_none());
    let settled = store.opened(|_, opened| Ok(opened.keys.next().is_none()));
    assert!(settled.unwrap());
}

#[test]
fn files_without_a_key_are_not_taken_for_none() {
    let scratch = Scratch::new("keyless");
    let store = Store::open(&scratch.0).unwrap();
    store.save_identity(&identity()).unwrap();
    drop(store);
    fs::remove_file(scratch.0.join(KEY)).unwrap();
    let refused = Store::open(&scratch.0).unwrap_err();
    assert!(matches!(refused, StoreError::NoKey { .. }), "{refused}");
    fs::write(scratch.0.join(KEY), [9]).unwrap();
    let refused = Store::open(&scratch.0).unwrap_err();
    assert!(matches!(refused, StoreError::Damaged { .. }), "{refused}");
}

#[test]
fn who_leaves_a_locked_directory_begins_anew() {
    let scratch = Scratch::new("forgotten");
    let store = Store::open(&scratch.0).unwrap();
    store.save_identity(&identity()).unwrap();
    store
        .keep_under(Some(&UnlockKey::random(&mut rng())))
        .unwrap();
    drop(store);
    let store = Store::open(&scratch.0).unwrap();
    assert!(store.is_locked());
    store.clear().unwrap();
    assert!(!store.is_locked() && store.is_kept_under(None));
    assert_eq!(store.identity().unwrap(), None);
}

const CANARY: &[u8] = b"the canary that nobody shall find";
