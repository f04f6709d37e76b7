//! The client's half of an interactive stream: terminal and signals to frames, frames to output.

use std::{
    io::{self, Read as _},
    thread,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, split},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::{Failure, Report, terminal};
use crate::wire::{Frame, FrameReader, Stdio, encode};

/// Chunks of input that wait for the connection, at most.
const INPUT_CHUNKS_MAX: usize = 16;
const INPUT_CHUNK_BYTES: usize = 16 * 1024;
/// After so many signals the client goes, as Docker's does.
const SIGNALS_MAX: u32 = 3;

/// Carries a stream to its end and returns the program's exit code.
pub(super) async fn carry(
    connection: impl AsyncRead + AsyncWrite,
    stdio: Stdio,
) -> Result<Report, Failure> {
    let (stdin, terminal) = match stdio {
        Stdio::Detached => (false, false),
        Stdio::Pipes { stdin } => (stdin, false),
        Stdio::Terminal { stdin, .. } => (stdin, true),
    };
    let _raw = if terminal && stdin {
        terminal::RawMode::enter().map_err(Failure::new)?
    } else {
        None
    };
    let (reader, mut writer) = split(connection);
    let (frames, mut queue) = mpsc::channel(INPUT_CHUNKS_MAX);
    if stdin {
        read_stdin(frames.clone());
    }
    let impatience = forward_signals(frames, terminal);
    let send = async move {
        let mut buffer = BytesMut::new();
        while let Some(frame) = queue.recv().await {
            buffer.clear();
            encode(&frame, &mut buffer);
            // A connection that takes nothing more has its reason on the reading side.
            if writer.write_all(&buffer).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        outcome = receive(FrameReader::new(reader)) => outcome,
        () = send => unreachable!("sending never ends by itself"),
        result = impatience => Err(match result {
            Ok(()) => Failure::new(format_args!(
                "got {SIGNALS_MAX} signals, and the command has not ended: leaving it alone"
            )),
            Err(error) => Failure::new(error),
        }
        .with_code(125)),
    }
}

async fn receive(mut frames: FrameReader<impl AsyncRead + Unpin>) -> Result<Report, Failure> {
    let (mut out, mut err) = (tokio::io::stdout(), tokio::io::stderr());
    loop {
        match frames.next().await {
            Ok(Some(Frame::Stdout(data))) => write(&mut out, &data).await,
            Ok(Some(Frame::Stderr(data))) => write(&mut err, &data).await,
            Ok(Some(Frame::Exit(code))) => {
                return Ok(Report::code(u8::try_from(code & 0xff).unwrap_or(u8::MAX)));
            }
            Ok(Some(Frame::Failure(message))) => return Err(Failure::new(message).with_code(125)),
            Ok(Some(Frame::Stdin(_) | Frame::Resize(_) | Frame::Signal(_))) => {}
            Ok(None) => {
                return Err(Failure::new(
                    "the daemon closed the stream before the command ended; `overlay ps` shows whether it still runs",
                )
                .with_code(125));
            }
            Err(error) => return Err(Failure::new(error).with_code(125)),
        }
    }
}

/// Output that nobody reads any more is dropped; the program's end still counts.
async fn write(out: &mut (impl AsyncWrite + Unpin), data: &[u8]) {
    if out.write_all(data).await.is_ok() {
        drop(out.flush().await);
    }
}

/// Reads standard input on a thread of its own: a read that waits cannot be cancelled, and ends with the process.
fn read_stdin(frames: mpsc::Sender<Frame>) {
    thread::spawn(move || {
        let mut chunk = vec![0; INPUT_CHUNK_BYTES];
        loop {
            let data = match io::stdin().lock().read(&mut chunk) {
                Ok(length) => Bytes::copy_from_slice(chunk.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => Bytes::new(),
            };
            let last = data.is_empty();
            if frames.blocking_send(Frame::Stdin(data)).is_err() || last {
                return;
            }
        }
    });
}

/// Passes signals on to the program, and the size of the terminal whenever it changes; ends when the user has asked for
/// the end more often than a command needs.
async fn forward_signals(frames: mpsc::Sender<Frame>, terminal: bool) -> io::Result<()> {
    let mut window = signal(SignalKind::window_change())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut asked = 0;
    while asked < SIGNALS_MAX {
        let kind = tokio::select! {
            _ = window.recv() => {
                if let Some(size) = terminal::size().filter(|_| terminal) {
                    // One that finds the queue full is followed by another.
                    let _ = frames.try_send(Frame::Resize(size));
                }
                continue;
            }
            _ = interrupt.recv() => SignalKind::interrupt(),
            _ = terminate.recv() => SignalKind::terminate(),
            _ = hangup.recv() => SignalKind::hangup(),
            _ = quit.recv() => SignalKind::quit(),
        };
        asked += 1;
        let number = u8::try_from(kind.as_raw_value()).unwrap_or_default();
        // A program that reads no input may have filled the queue; then only patience ends.
        let _ = frames.try_send(Frame::Signal(number));
    }
    Ok(())
}
