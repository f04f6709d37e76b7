//! What clients saw, checked for linearizability by somebody else's checker.

use std::collections::{BTreeMap, BTreeSet};

use todc_utils::{
    linearizability::{
        WGLChecker,
        history::{Action, History},
    },
    specifications::Specification,
};

/// Calls and answers in the order of real time. All operations are on one register: a write puts its number there, a read
/// sees the number that was put last.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    actions: Vec<(usize, Action<Operation>)>,
    writes: BTreeMap<u64, usize>,
    last: usize,
}

#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Write(u64),
    /// Zero where nothing was written.
    Read(u64),
}

struct Register;

impl Specification for Register {
    type State = u64;
    type Operation = Operation;

    fn init() -> u64 {
        0
    }

    fn apply(operation: &Operation, state: &u64) -> (bool, u64) {
        match operation {
            Operation::Write(number) => (true, *number),
            Operation::Read(number) => (number == state, *state),
        }
    }
}

impl Clients {
    pub(crate) fn on_write(&mut self, number: u64) {
        let client = self.client();
        self.writes.insert(number, client);
        let call = Action::Call(Operation::Write(number));
        self.actions.push((client, call));
    }

    /// Somebody applied the write: from here on all see it. That is earlier than the answer to whoever asked.
    pub(crate) fn on_written(&mut self, number: u64) {
        if let Some(client) = self.writes.remove(&number) {
            let answer = Action::Response(Operation::Write(number));
            self.actions.push((client, answer));
        }
    }

    /// Returns who reads.
    pub(crate) fn on_read(&mut self) -> usize {
        let client = self.client();
        let call = Action::Call(Operation::Read(0));
        self.actions.push((client, call));
        client
    }

    pub(crate) fn on_answer(&mut self, client: usize, number: u64) {
        let answer = Action::Response(Operation::Read(number));
        self.actions.push((client, answer));
    }

    /// Looks at the first actions alone: the checker's time rises with more than their square. A write that is under way
    /// at their end is over then if its number was read; whatever else is under way is left out.
    pub(crate) fn is_linearizable(&self) -> bool {
        let first = self.actions.iter().take(self.manageable());
        let answered: BTreeSet<usize> = first
            .clone()
            .filter(|(_, action)| matches!(action, Action::Response(_)))
            .map(|(client, _)| *client)
            .collect();
        let seen: BTreeSet<u64> = first
            .clone()
            .filter_map(|(_, action)| match action {
                Action::Response(Operation::Read(number)) => Some(*number),
                _ => None,
            })
            .collect();
        let (mut actions, mut open) = (Vec::new(), Vec::new());
        for (client, action) in first {
            if answered.contains(client) {
                actions.push((*client, action.clone()));
            } else if let Action::Call(Operation::Write(number)) = action
                && seen.contains(number)
            {
                actions.push((*client, action.clone()));
                open.push((*client, Action::Response(Operation::Write(*number))));
            }
        }
        actions.extend(open);
        actions.is_empty()
            || WGLChecker::<Register>::is_linearizable(History::from_actions(actions))
    }

    /// Returns how many actions there are before too much is under way at once for the checker to try in every order.
    pub(crate) fn manageable(&self) -> usize {
        let mut open = 0_usize;
        let over = self.actions.iter().position(|(_, action)| {
            match action {
                Action::Call(_) => open += 1,
                Action::Response(_) => open = open.saturating_sub(1),
            }
            open > OPEN_MAX
        });
        over.unwrap_or(self.actions.len()).min(ACTIONS_MAX)
    }

    fn client(&mut self) -> usize {
        self.last += 1;
        self.last
    }
}

const ACTIONS_MAX: usize = 150;
const OPEN_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_that_sees_the_past_is_found() {
        for (seen, expected) in [(2, true), (1, false)] {
            let mut clients = Clients::default();
            for number in [1, 2] {
                clients.on_write(number);
                clients.on_written(number);
            }
            clients.on_write(3);
            let reader = clients.on_read();
            clients.on_answer(reader, seen);
            assert_eq!(clients.is_linearizable(), expected, "{seen}");
        }
    }
}
