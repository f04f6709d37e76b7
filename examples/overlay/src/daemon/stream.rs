//! The daemon's half of an interactive stream: frames to a program's input, its output to frames.

use std::{fs::File, io, os::fd::OwnedFd, time::Duration};

use bytes::{Bytes, BytesMut};
use overlay_core::EndpointId;
use overlay_linux::ProcessId;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split},
    net::unix::pipe,
    time::timeout,
};

use super::{
    holders::Streams,
    programs::{Attached, Programs},
};
use crate::wire::{Frame, FrameReader, WindowSize, encode};

/// How long output is read on after the end of a program whose children still hold its streams.
const LAST_OUTPUT_TIME_MAX: Duration = Duration::from_millis(200);
const CHUNK_BYTES: usize = 32 * 1024;

/// Makes an asynchronous reader of the other end of a pipe or terminal.
pub(super) fn reader(file: File) -> io::Result<pipe::Receiver> {
    // Unchecked, because a terminal is no pipe, but is read like one.
    pipe::Receiver::from_file_unchecked(file)
}

fn writer(file: File) -> io::Result<pipe::Sender> {
    pipe::Sender::from_file_unchecked(file)
}

/// Carries a program's streams until it ends or the client goes.
pub(super) async fn carry(
    connection: impl AsyncRead + AsyncWrite + Send,
    programs: Programs,
    mut attached: Attached,
) {
    let (id, process) = (attached.id, attached.running.process);
    let (reader, writer) = split(connection);
    let mut client = Client {
        writer,
        gone: false,
    };
    let (input, output) = match open(std::mem::take(&mut attached.running.streams)) {
        Ok(ends) => ends,
        Err(error) => {
            client
                .send(&Frame::Failure(format!(
                    "cannot carry the program's streams: {error}"
                )))
                .await;
            return;
        }
    };
    let exec = attached.ends_with_client;
    let code = async {
        if exec {
            attached.running.exit.await.code()
        } else {
            programs.end_of(id).await
        }
    };
    let target = Target {
        programs: &programs,
        id,
        process,
    };
    tokio::select! {
        code = output.carry(&mut client, code, !exec) => match code {
            Some(code) => client.send(&Frame::Exit(code)).await,
            None => programs.hang_up(id, process).await,
        },
        // Comes to an end only if the client broke the protocol; there is nobody to tell.
        () = input.carry(FrameReader::new(reader), &target, exec) => programs.hang_up(id, process).await,
    }
}

fn open(streams: Streams) -> io::Result<(Input, Output)> {
    let Streams {
        terminal,
        input,
        output,
        error,
        follower,
    } = streams;
    let window = terminal.as_ref().map(File::try_clone).transpose()?;
    let keyboard = terminal.as_ref().map(File::try_clone).transpose()?;
    let input = Input {
        window,
        writer: keyboard.or(input).map(writer).transpose()?,
    };
    let output = Output {
        standard: terminal.or(output).map(reader).transpose()?,
        error: error.map(reader).transpose()?,
        _follower: follower,
    };
    Ok((input, output))
}

struct Client<W> {
    writer: W,
    gone: bool,
}

impl<W: AsyncWrite + Unpin> Client<W> {
    async fn send(&mut self, frame: &Frame) {
        if self.gone {
            return;
        }
        let mut buffer = BytesMut::new();
        encode(frame, &mut buffer);
        let sent = async {
            self.writer.write_all(&buffer).await?;
            self.writer.flush().await
        };
        self.gone = sent.await.is_err();
    }
}

struct Output {
    standard: Option<pipe::Receiver>,
    error: Option<pipe::Receiver>,
    /// Until the last of it is read.
    _follower: Option<OwnedFd>,
}

impl Output {
    /// Sends output until the program ended and all is read: its code. `None` if the client went before, unless `stay`.
    async fn carry(
        mut self,
        client: &mut Client<impl AsyncWrite + Unpin>,
        code: impl Future<Output = i32>,
        stay: bool,
    ) -> Option<i32> {
        tokio::pin!(code);
        let (mut standard, mut error) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
        let mut ended = None;
        while self.standard.is_some() || self.error.is_some() || ended.is_none() {
            let next = async {
                tokio::select! {
                    read = read(&mut self.standard, &mut standard) => Frame::Stdout(read),
                    read = read(&mut self.error, &mut error) => Frame::Stderr(read),
                }
            };
            let frame = match ended {
                None => tokio::select! {
                    frame = next => frame,
                    code = &mut code => {
                        ended = Some(code);
                        continue;
                    }
                },
                Some(_) => match timeout(LAST_OUTPUT_TIME_MAX, next).await {
                    Ok(frame) => frame,
                    Err(_) => break,
                },
            };
            match &frame {
                Frame::Stdout(data) if data.is_empty() => self.standard = None,
                Frame::Stderr(data) if data.is_empty() => self.error = None,
                frame => client.send(frame).await,
            }
            if client.gone && !stay {
                return None;
            }
        }
        ended
    }
}

/// Reads what there is; nothing at the end. A stream that is none never gives anything.
async fn read(stream: &mut Option<pipe::Receiver>, chunk: &mut [u8]) -> Bytes {
    let Some(stream) = stream else {
        return std::future::pending().await;
    };
    // A terminal that nobody holds any more says EIO.
    let length = stream.read(chunk).await.unwrap_or(0);
    Bytes::copy_from_slice(chunk.get(..length).unwrap_or_default())
}

/// Who gets the signals.
struct Target<'a> {
    programs: &'a Programs,
    id: EndpointId,
    process: ProcessId,
}

impl Target<'_> {
    async fn signal(&self, number: u8) {
        self.programs
            .signal(self.id, self.process, i32::from(number))
            .await;
    }
}

struct Input {
    window: Option<File>,
    writer: Option<pipe::Sender>,
}

impl Input {
    /// Feeds what the client sends to the program. Returns when the client has gone, if `hangs_up`.
    async fn carry(
        mut self,
        mut frames: FrameReader<impl AsyncRead + Unpin>,
        target: &Target<'_>,
        hangs_up: bool,
    ) {
        loop {
            match frames.next().await {
                Ok(Some(Frame::Stdin(data))) if data.is_empty() => {
                    // A terminal has no end of input but a character.
                    self.writer = self.writer.filter(|_| self.window.is_some());
                }
                Ok(Some(Frame::Stdin(data))) => {
                    if let Some(writer) = &mut self.writer
                        && writer.write_all(&data).await.is_err()
                    {
                        self.writer = None;
                    }
                }
                Ok(Some(Frame::Resize(size))) => self.resize(size),
                Ok(Some(Frame::Signal(number))) => target.signal(number).await,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        drop(self);
        if !hangs_up {
            std::future::pending::<()>().await;
        }
    }

    fn resize(&self, size: WindowSize) {
        let Some(window) = &self.window else { return };
        let size = rustix::termios::Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        if let Err(error) = rustix::termios::tcsetwinsize(window, size) {
            tracing::debug!(%error, "a terminal was not resized");
        }
    }
}
