//! The local API: frames of interactive streams, by the very file of the program that reads them.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use bytes::BytesMut;
use frame::{Frame, FrameError, FrameReader, encode};

#[path = "../../examples/overlay/src/wire/frame.rs"]
#[allow(dead_code, reason = "the program needs more of it")]
mod frame;

/// How large a terminal is; the program has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WindowSize {
    pub(crate) rows: u16,
    pub(crate) columns: u16,
}

/// A stream, whole: what is read is written, and reads the same.
pub fn unix_stream(bytes: &[u8]) {
    let frames = read(bytes);
    let mut written = BytesMut::new();
    for frame in &frames {
        encode(frame, &mut written);
    }
    // An empty frame of output is none when it is written.
    let kept = frames.into_iter().filter(|frame| match frame {
        Frame::Stdout(data) | Frame::Stderr(data) => !data.is_empty(),
        _ => true,
    });
    assert_eq!(read(&written), kept.collect::<Vec<_>>());
}

fn read(bytes: &[u8]) -> Vec<Frame> {
    let (mut reader, mut frames) = (FrameReader::new(bytes), Vec::new());
    while let Ok(Some(frame)) = next(&mut reader) {
        frames.push(frame);
    }
    frames
}

/// Octets that are there are read at once.
fn next(reader: &mut FrameReader<&[u8]>) -> Result<Option<Frame>, FrameError> {
    let next = pin!(reader.next());
    match next.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(read) => read,
        Poll::Pending => unreachable!("nothing is waited for"),
    }
}
