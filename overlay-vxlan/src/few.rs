//! A list that mostly has one element.

/// A list without an allocation for its first element.
#[derive(Clone, Debug, Default)]
pub(crate) enum Few<T> {
    #[default]
    None,
    One(T),
    /// At least two.
    More(Box<[T]>),
}

impl<T> Few<T> {
    pub(crate) fn push(&mut self, value: T) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(value),
            Self::One(first) => Self::More(Box::new([first, value])),
            Self::More(list) => {
                let mut list = list.into_vec();
                list.push(value);
                Self::More(list.into_boxed_slice())
            }
        };
    }

    /// Removes the first element that is `which`.
    pub(crate) fn remove(&mut self, mut which: impl FnMut(&T) -> bool) -> Option<T> {
        let at = self.as_slice().iter().position(&mut which)?;
        match std::mem::take(self) {
            Self::None => None,
            Self::One(value) => Some(value),
            Self::More(list) => {
                let mut list = list.into_vec();
                let removed = list.remove(at);
                for value in list {
                    self.push(value);
                }
                Some(removed)
            }
        }
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        match self {
            Self::None => &[],
            Self::One(value) => std::slice::from_ref(value),
            Self::More(list) => list,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_list_like_any_other() {
        let mut few = Few::default();
        let mut list = Vec::new();
        for step in 0..200_u32 {
            // Grows to five and shrinks to nothing, again and again.
            if step / 5 % 2 == 0 {
                few.push(step);
                list.push(step);
            } else {
                let from = |value: &u32| value % 3 == step % 3;
                let at = list.iter().position(from);
                assert_eq!(few.remove(from), at.map(|at| list.remove(at)));
            }
            if step % 25 == 24 {
                while let Some(first) = list.first().copied() {
                    assert_eq!(few.remove(|value| *value == first), Some(list.remove(0)));
                    assert_eq!(few.as_slice(), list);
                }
                assert!(few.is_empty());
            }
            assert_eq!(
                (few.as_slice(), few.is_empty()),
                (&list[..], list.is_empty())
            );
            assert_eq!(matches!(few, Few::More(_)), list.len() > 1);
        }
    }
}
