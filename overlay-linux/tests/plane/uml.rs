//! Stories that this kernel cannot tell, told inside user-mode Linux: a kernel that runs as a plain process, with this
//! host's files to read. It has IPsec, VXLAN and bridges, and nf_tables of bridges but not of IP.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use libtest_mimic::Failed;

use crate::net::{Outcome, has, say};

/// Boots, tells the stories one after the other, and looks that each went well.
pub(crate) fn tell(binary: &Path, stories: &[&str]) -> Result<(), Failed> {
    if !has("linux.uml") {
        say("SKIPPED: stories of sealed packets: no linux.uml (package user-mode-linux)");
        return Ok(());
    }
    let said = boot(binary, stories).map_err(|error| error.to_string())?;
    for story in stories {
        if !said.contains(&format!("TOLD {story} 0\n")) || said.contains("SKIPPED") {
            return Err(format!("{story} inside user-mode Linux:\n{said}").into());
        }
    }
    Ok(())
}

fn boot(binary: &Path, stories: &[&str]) -> Outcome<String> {
    let script = binary.with_file_name("init");
    let mut text = PREPARE.to_owned();
    for story in stories {
        let binary = binary.display();
        text += &format!("{binary} story {story} 2>&1; echo TOLD {story} $?\n");
    }
    text += "echo o > /proc/sysrq-trigger\nsleep 10\n";
    fs::write(&script, text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let init = format!("init={}", script.display());
    // It shall end by itself; a kernel that hangs is ended.
    let output = Command::new("timeout")
        .args(["--kill-after=5", "120", "linux.uml", "mem=256M", "quiet"])
        .args(["rootfstype=hostfs", "rootflags=/", "ro", "con=null"])
        .args(["con0=null,fd:1", "ssl=null", &init])
        .stdin(Stdio::null())
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout).replace('\r', ""))
}

/// Modules are where the host's kernel would not look, also those that the kernel asks for by itself.
const PREPARE: &str = r#"#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin TMPDIR=/run
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mkdir -p /run/m/lib/modules
ln -s /usr/lib/uml/modules/$(uname -r) /run/m/lib/modules/
printf '#!/bin/sh\nexec /sbin/modprobe -d /run/m "$@"\n' > /run/modprobe
chmod 755 /run/modprobe
echo /run/modprobe > /proc/sys/kernel/modprobe
for module in ipv6 veth bridge vxlan esp4 esp6 xfrm_user; do
    modprobe -d /run/m $module
done
"#;
