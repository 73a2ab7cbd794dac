//! Two networks of our own, joined by a cable that can be cut: nobody hears of
//! it, as where a switch dies.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The near end's address.
pub(crate) const NEAR: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

/// What the cable is called at both ends.
const CABLE: &str = "cable";

/// Two networks, each with its own loopback; gone when dropped, and with all
/// processes in them at the latest.
pub(crate) struct Networks {
    near: Network,
    far: Network,
}

impl Networks {
    /// Makes both, and brings the calling thread into the near one, for good,
    /// with all that it starts from now on. `None` where that is not possible,
    /// as for those who are not root.
    pub(crate) fn enter() -> Option<Networks> {
        let networks = Networks {
            near: Network::new()?,
            far: Network::new()?,
        };
        let (near, far) = (networks.near.process(), networks.far.process());
        ip(&format!(
            "link add {CABLE} netns {near} type veth peer name {CABLE} netns {far}"
        ))?;
        networks.within_far(|| plug(FAR))?;
        networks.near.enter();
        plug(NEAR)?;
        Some(networks)
    }

    /// Does that in the far one, with all that it starts.
    pub(crate) fn within_far<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let acting = scope.spawn(|| {
                self.far.enter();
                act()
            });
            acting.join().unwrap()
        })
    }

    /// From now on nothing comes through, and nothing says so.
    pub(crate) fn cut(&self) {
        ip(&format!("link set {CABLE} down")).unwrap();
    }

    pub(crate) fn mend(&self) {
        ip(&format!("link set {CABLE} up")).unwrap();
    }
}

fn plug(address: Ipv4Addr) -> Option<()> {
    ip(&format!("address add {address}/24 dev {CABLE}"))?;
    ip(&format!("link set {CABLE} up"))
}

/// Runs `ip` where the calling thread is.
fn ip(arguments: &str) -> Option<()> {
    let mut command = Command::new("ip");
    let status = command.args(arguments.split(' ')).status().ok()?;
    status.success().then_some(())
}

/// One network. A process holds it, and ends with us, whatever becomes of us.
struct Network(Child);

impl Network {
    fn new() -> Option<Network> {
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo up && cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut line = String::new();
        let read = BufReader::new(holder.stdout.take()?).read_line(&mut line);
        let network = Network(holder);
        (read.is_ok() && line == "up\n").then_some(network)
    }

    fn process(&self) -> u32 {
        self.0.id()
    }

    fn enter(&self) {
        let file = std::fs::File::open(format!("/proc/{}/ns/net", self.process())).unwrap();
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
