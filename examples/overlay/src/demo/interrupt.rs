//! Ctrl-C ends the demo in order: it cleans up first.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};

/// Whether somebody wants the demo to end.
#[derive(Clone, Debug)]
pub(super) struct Interrupt(Arc<AtomicBool>);

/// Somebody wanted the demo to end.
#[derive(Debug, Error)]
#[error("interrupted; everything was cleaned up")]
pub(super) struct Interrupted;

impl Interrupt {
    /// Watches for an interrupt or a request to terminate, from a thread of its own.
    pub(super) fn watch() -> anyhow::Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&flag);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        thread::Builder::new()
            .name("interrupt".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let (Ok(mut interrupt), Ok(mut terminate)) = (
                        signal(SignalKind::interrupt()),
                        signal(SignalKind::terminate()),
                    ) else {
                        return;
                    };
                    loop {
                        tokio::select! {
                            _ = interrupt.recv() => {}
                            _ = terminate.recv() => {}
                        }
                        told.store(true, Ordering::SeqCst);
                    }
                });
            })?;
        Ok(Self(flag))
    }

    /// Fails if the demo is to end.
    pub(super) fn check(&self) -> Result<(), Interrupted> {
        if self.0.load(Ordering::SeqCst) {
            Err(Interrupted)
        } else {
            Ok(())
        }
    }

    /// Waits for a moment, and fails if the demo is to end.
    pub(super) fn pause(&self, duration: Duration) -> Result<(), Interrupted> {
        thread::sleep(duration);
        self.check()
    }
}
