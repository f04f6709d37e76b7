//! What the agent wishes, carried out.

use super::{Node, Output};
use crate::agent::{self, Wish};

impl Node {
    pub(super) fn on_wish(&mut self, wish: Wish) {
        let now = self.now;
        match wish {
            Wish::JoinNetwork(network) => {
                self.gossip_do(|gossip| gossip.join_network(now, network))
            }
            Wish::LeaveNetwork(network) => {
                self.gossip_do(|gossip| gossip.leave_network(now, network));
            }
            Wish::PutRow(network, row) => {
                let records = agent::records(&row);
                self.names.set_records(now, network, row.endpoint, records);
                self.gossip_do(|gossip| {
                    // Names and addresses were bounded when the endpoint was attached; the row fits.
                    let _ = gossip.put_row(now, network, *row);
                });
            }
            Wish::DeleteRow(network, endpoint) => {
                self.names.remove_records(now, network, endpoint);
                self.gossip_do(|gossip| {
                    gossip.delete_row(now, network, endpoint);
                });
                self.drains.cancel(now, endpoint.into());
            }
            Wish::SetZone(network) => self.names.set_network(now, &network),
            Wish::RemoveZone(network) => self.names.remove_network(now, network),
            Wish::SetClient(client, view, addresses) => {
                self.names.set_client(now, client, view, &addresses);
            }
            Wish::RemoveClient(endpoint) => {
                self.names.remove_client(now, endpoint);
                self.outputs.push_back(Output::CloseResolver(endpoint));
            }
            Wish::CreatePort(spec) => self.outputs.push_back(Output::CreatePort(spec)),
            Wish::RefusePort(endpoint, error) => self.take_port(endpoint, Err(error)),
            Wish::RemovePort(endpoint) => self.outputs.push_back(Output::RemovePort(endpoint)),
            Wish::Publish(ports) => self.outputs.push_back(Output::Publish(ports)),
            Wish::Drain {
                network,
                endpoint,
                patience,
            } => self.drain(network, endpoint, patience),
            Wish::StartTask(order) => self.outputs.push_back(Output::StartTask(order)),
            Wish::StopTask(task, grace) => self.outputs.push_back(Output::StopTask(task, grace)),
        }
        self.plane_dirty = true;
    }
}
