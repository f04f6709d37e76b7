//! The frames of an interactive stream, after the HTTP upgrade.
//!
//! ```text
//!  0        1                                   5
//! +--------+--------+--------+--------+--------+----------------
//! | stream | length, big endian                | payload ...
//! +--------+--------+--------+--------+--------+----------------
//! ```
//!
//! | stream | direction | payload |
//! |---|---|---|
//! | 0 stdin | to the daemon | octets; none at all closes the program's input |
//! | 1 stdout, 2 stderr | to the client | octets |
//! | 3 resize | to the daemon | rows and columns, two octets each |
//! | 4 exit | to the client | the exit code, four octets; the last frame |
//! | 5 signal | to the daemon | the number of the signal to send, one octet |
//! | 6 failure | to the client | why the stream ends without an exit code, UTF-8 |

use std::io;

use bytes::{Buf as _, Bytes, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::WindowSize;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Input for the program; empty: no more will come.
    Stdin(Bytes),
    /// What the program wrote to its standard output, or to its terminal.
    Stdout(Bytes),
    /// What the program wrote to its standard error.
    Stderr(Bytes),
    /// The client's terminal has this size now.
    Resize(WindowSize),
    /// The program ended.
    Exit(i32),
    /// Send this signal to the program.
    Signal(u8),
    /// The stream ends although the program did not, or nobody knows whether it did.
    Failure(String),
}

/// What came was no frame.
#[derive(Debug, Error)]
pub(crate) enum FrameError {
    /// The connection failed, or ended in the middle of a frame.
    #[error("the stream broke off")]
    Io(#[from] io::Error),
    /// No stream has this number.
    #[error("expected a stream number of at most 6, found {found}")]
    Stream {
        /// The number.
        found: u8,
    },
    /// The payload cannot be what the stream carries.
    #[error("a payload of {found} octets does not fit stream {stream}")]
    Length {
        /// The stream.
        stream: u8,
        /// Octets announced.
        found: usize,
    },
}

/// Longest payload of one frame, in octets. Longer data takes several frames.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

const HEADER_BYTES: usize = 5;

/// Appends the octets of `frame` to `buffer`; data longer than a frame holds is cut into several.
pub(crate) fn encode(frame: &Frame, buffer: &mut BytesMut) {
    match frame {
        Frame::Stdin(data) if data.is_empty() => put(buffer, 0, &[]),
        Frame::Stdin(data) => put_data(buffer, 0, data),
        Frame::Stdout(data) => put_data(buffer, 1, data),
        Frame::Stderr(data) => put_data(buffer, 2, data),
        Frame::Resize(size) => {
            let [a, b] = size.rows.to_be_bytes();
            let [c, d] = size.columns.to_be_bytes();
            put(buffer, 3, &[a, b, c, d]);
        }
        Frame::Exit(code) => put(buffer, 4, &code.to_be_bytes()),
        Frame::Signal(number) => put(buffer, 5, &[*number]),
        Frame::Failure(message) => {
            put(buffer, 6, cut(message, PAYLOAD_BYTES_MAX).as_bytes());
        }
    }
}

fn put_data(buffer: &mut BytesMut, stream: u8, data: &[u8]) {
    for chunk in data.chunks(PAYLOAD_BYTES_MAX) {
        put(buffer, stream, chunk);
    }
}

fn put(buffer: &mut BytesMut, stream: u8, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("a payload has at most 64 KiB");
    buffer.extend_from_slice(&[stream]);
    buffer.extend_from_slice(&length.to_be_bytes());
    buffer.extend_from_slice(payload);
}

fn cut(text: &str, bytes_max: usize) -> &str {
    let fits = |at: &usize| text.is_char_boundary(*at);
    let end = (0..=bytes_max.min(text.len()))
        .rev()
        .find(fits)
        .unwrap_or_default();
    text.get(..end).unwrap_or_default()
}

/// Reads frames from a connection. Dropping a pending [`next`](Self::next) loses nothing.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    connection: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Starts to read.
    pub(crate) fn new(connection: R) -> Self {
        Self {
            connection,
            buffer: BytesMut::new(),
        }
    }

    /// Reads one frame; `None` when the connection ended between two frames.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(frame) = self.decode()? {
                return Ok(Some(frame));
            }
            if self.connection.read_buf(&mut self.buffer).await? == 0 {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    fn decode(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((&stream, rest)) = self.buffer.split_first() else {
            return Ok(None);
        };
        if stream > 6 {
            return Err(FrameError::Stream { found: stream });
        }
        let Some((length, _)) = rest.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let wrong = FrameError::Length {
            stream,
            found: length,
        };
        let fits = match stream {
            3 | 4 => length == 4,
            5 => length == 1,
            _ => length <= PAYLOAD_BYTES_MAX,
        };
        if !fits {
            return Err(wrong);
        }
        if self.buffer.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
        let payload = self.buffer.split_to(length).freeze();
        Ok(Some(match (stream, payload.as_ref()) {
            (0, _) => Frame::Stdin(payload),
            (1, _) => Frame::Stdout(payload),
            (2, _) => Frame::Stderr(payload),
            (3, &[a, b, c, d]) => Frame::Resize(WindowSize {
                rows: u16::from_be_bytes([a, b]),
                columns: u16::from_be_bytes([c, d]),
            }),
            (4, &[a, b, c, d]) => Frame::Exit(i32::from_be_bytes([a, b, c, d])),
            (5, &[number]) => Frame::Signal(number),
            (6, text) => Frame::Failure(String::from_utf8_lossy(text).into_owned()),
            _ => return Err(wrong),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_all(bytes: &[u8]) -> (Vec<Frame>, Option<FrameError>) {
        let (mut reader, mut frames) = (FrameReader::new(bytes), Vec::new());
        loop {
            match reader.next().await {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => return (frames, None),
                Err(error) => return (frames, Some(error)),
            }
        }
    }

    #[tokio::test]
    async fn every_frame_survives_the_wire() {
        let frames = [
            Frame::Stdin(Bytes::from_static(b"in")),
            Frame::Stdout(Bytes::from_static(b"out")),
            Frame::Stderr(Bytes::from_static(b"err")),
            Frame::Resize(WindowSize {
                rows: 24,
                columns: 80,
            }),
            Frame::Exit(-1),
            Frame::Signal(15),
            Frame::Failure("because".into()),
            Frame::Stdin(Bytes::new()),
        ];
        let mut buffer = BytesMut::new();
        frames.iter().for_each(|frame| encode(frame, &mut buffer));
        let (read, error) = read_all(&buffer).await;
        assert!(error.is_none(), "{error:?}");
        assert_eq!(read, frames);
    }

    #[tokio::test]
    async fn long_output_is_cut_and_arrives_whole() {
        let data = vec![7; PAYLOAD_BYTES_MAX * 2 + 1];
        let mut buffer = BytesMut::new();
        encode(&Frame::Stdout(data.clone().into()), &mut buffer);
        let (frames, error) = read_all(&buffer).await;
        assert!(error.is_none(), "{error:?}");
        let mut joined = Vec::new();
        for frame in &frames {
            let Frame::Stdout(chunk) = frame else {
                panic!("{frame:?}")
            };
            joined.extend_from_slice(chunk);
        }
        assert_eq!((frames.len(), joined), (3, data));
    }

    #[tokio::test]
    async fn wrong_streams_and_lengths_are_refused_before_anything_is_stored() {
        let (_, error) = read_all(&[7, 0, 0, 0, 0]).await;
        assert!(
            matches!(error, Some(FrameError::Stream { found: 7 })),
            "{error:?}"
        );
        let (_, error) = read_all(&[1, 0, 1, 0, 1]).await;
        assert!(
            matches!(
                error,
                Some(FrameError::Length {
                    stream: 1,
                    found: 65_537
                })
            ),
            "{error:?}"
        );
        let (_, error) = read_all(&[4, 0, 0, 0, 3, 0, 0, 0]).await;
        assert!(
            matches!(
                error,
                Some(FrameError::Length {
                    stream: 4,
                    found: 3
                })
            ),
            "{error:?}"
        );
        let (_, error) = read_all(&[1, 0, 0, 0, 3, b'a']).await;
        assert!(matches!(error, Some(FrameError::Io(_))), "{error:?}");
    }
}
