//! `capture`: the frames of a network, as a pcapng file.

use std::{io::IsTerminal as _, path::PathBuf};

use clap::Args;
use overlay_node::driver::CaptureOptions;
use tokio::{fs::File, io::AsyncWriteExt as _};

use super::{Failure, Report};
use crate::client::Client;

/// Capture the frames of a network on this node, as endpoints see them
#[derive(Debug, Args)]
pub(crate) struct CaptureArgs {
    /// The network
    network: String,
    /// The file to write, in the form pcapng; `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    write: PathBuf,
    /// Keep at most so much of each frame, in octets
    #[arg(short, long, value_name = "OCTETS", default_value_t = 262_144)]
    snapshot_length: u32,
}

/// Captures until it is interrupted.
pub(crate) async fn run(client: &Client, args: CaptureArgs) -> Result<Report, Failure> {
    let to_output = args.write.as_os_str() == "-";
    if to_output && std::io::stdout().is_terminal() {
        let text = "a capture is no text: name a file with `--write`, or send it on, as in `overlay capture NET | tshark -r -`";
        return Err(Failure::new(text).with_code(2));
    }
    let options = CaptureOptions {
        network: args.network,
        snap_bytes: args.snapshot_length,
    };
    let mut captured = client.capture(&options).await?;
    let unwritable = |error: std::io::Error| {
        Failure::new(format_args!(
            "cannot write to {}: {error}",
            args.write.display()
        ))
    };
    let mut file: Box<dyn tokio::io::AsyncWrite + Unpin + Send> = if to_output {
        Box::new(tokio::io::stdout())
    } else {
        Box::new(File::create(&args.write).await.map_err(unwritable)?)
    };
    loop {
        let piece = tokio::select! {
            piece = captured.next() => piece?,
            _ = tokio::signal::ctrl_c() => None,
        };
        let Some(piece) = piece else { break };
        file.write_all(&piece).await.map_err(unwritable)?;
        // Whoever reads along sees each frame when it comes.
        file.flush().await.map_err(unwritable)?;
    }
    file.flush().await.map_err(unwritable)?;
    Ok(Report::default())
}
