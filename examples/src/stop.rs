//! Ctrl-C: once for an orderly stop, twice to end at once.

use std::io;

use tokio_util::sync::CancellationToken;

/// The exit code of a program that was stopped, as shells have it for Ctrl-C.
pub const EXIT_STOPPED: u8 = 130;

/// A token that is cancelled by the first Ctrl-C or SIGTERM. The second one ends the process at
/// once, which is safe too: what is committed stays, and the next run goes on from there.
///
/// # Errors
/// The operating system's, when a signal cannot be listened to.
pub fn on_signal() -> io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut signals = Signals::new()?;
    let token = stop.clone();
    tokio::spawn(async move {
        signals.next().await;
        eprintln!("stopping; what is loaded stays (press Ctrl-C again to end at once)");
        token.cancel();
        signals.next().await;
        std::process::exit(EXIT_STOPPED.into());
    });
    Ok(stop)
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    /// Listens from now on, not from the first call of `next`.
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(windows)]
struct Signals(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self(tokio::signal::windows::ctrl_c()?))
    }

    async fn next(&mut self) {
        self.0.recv().await;
    }
}
