//! The virtio-vsock device: its three queues.
//!
//! The crate's own socket driver does not serve the event queue, and without a buffer there the
//! device cannot say that its connections did not survive a snapshot. So this works on the
//! crate's queues instead.

use alloc::boxed::Box;
use alloc::vec;
use core::ptr::NonNull;

use ironclaw_testguest::boot::Device;
use ironclaw_testguest::packet::HEADER;
use virtio_drivers::queue::{OwningQueue, VirtQueue};
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::{DeviceStatus, DeviceType, Transport};
use virtio_drivers::{Error, Result};

use super::dma::IdentityMapping;

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const EVENT: u16 = 2;

const RECEIVE_SLOTS: usize = 16;
const RECEIVE_PACKET: usize = HEADER + 16 * 1024;
/// Received buffers that are given back to the device before it is notified. It finds them by
/// itself with the next packet, unless it ran out of all of them: then as many as there are come
/// back one after the other, and it is notified in their midst.
const RECEIVE_BATCH: usize = RECEIVE_SLOTS / 2;
const TRANSMIT_SLOTS: usize = 16;
const TRANSMIT_PACKET: usize = HEADER + 16 * 1024;
const EVENT_SLOTS: usize = 4;
const EVENT_LENGTH: usize = 4;

/// `VIRTIO_F_VERSION_1`. Suppression of notifications (`VIRTIO_RING_F_EVENT_IDX`) is not taken:
/// its state would have to be right on both sides of a snapshot.
const VERSION_1: u64 = 1 << 32;

/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET`, the one event there is.
const TRANSPORT_RESET: [u8; EVENT_LENGTH] = [0; EVENT_LENGTH];

/// The device.
pub(crate) struct Socket {
    transport: MmioTransport<'static>,
    receive: VirtQueue<IdentityMapping, RECEIVE_SLOTS>,
    /// Buffers of the receive queue, by the queue's number for each: all are with the device, but
    /// for the one that is being read.
    arrivals: [Box<[u8]>; RECEIVE_SLOTS],
    /// Buffers given back since the device was notified.
    unannounced: usize,
    event: OwningQueue<IdentityMapping, EVENT_SLOTS, EVENT_LENGTH>,
    transmit: VirtQueue<IdentityMapping, TRANSMIT_SLOTS>,
    /// Buffers of the transmit queue; one that is in use is with the device.
    packets: [Packet; TRANSMIT_SLOTS],
}

struct Packet {
    buffer: Box<[u8]>,
    /// The queue's number for it, and its length, while it is with the device.
    in_use: Option<(u16, usize)>,
}

impl Socket {
    /// Sets the device up, if it is a vsock device.
    ///
    /// # Errors
    /// What the device refused; `Unsupported` if it is another device.
    ///
    /// # Safety
    /// `device` must be a virtio MMIO device, mapped, and used by nobody else.
    pub(crate) unsafe fn open(device: Device) -> Result<Self> {
        let address = usize::try_from(device.address).map_err(|_| Error::InvalidParam)?;
        let length = usize::try_from(device.length).map_err(|_| Error::InvalidParam)?;
        let header = NonNull::new(address as *mut VirtIOHeader).ok_or(Error::InvalidParam)?;
        // SAFETY: the caller vouches for the device.
        let transport = unsafe { MmioTransport::new(header, length) };
        let mut transport = transport.map_err(|_| Error::Unsupported)?;
        if transport.device_type() != DeviceType::Socket {
            return Err(Error::Unsupported);
        }
        negotiate(&mut transport)?;
        let mut receive = VirtQueue::new(&mut transport, RECEIVE, false, false)?;
        let mut arrivals = core::array::from_fn(|_| vec![0; RECEIVE_PACKET].into_boxed_slice());
        for (index, buffer) in arrivals.iter_mut().enumerate() {
            lend(&mut receive, index, buffer)?;
        }
        let transmit = VirtQueue::new(&mut transport, TRANSMIT, false, false)?;
        let event = OwningQueue::new(VirtQueue::new(&mut transport, EVENT, false, false)?)?;
        transport.finish_init();
        transport.notify(RECEIVE);
        let packets = core::array::from_fn(|_| Packet {
            buffer: vec![0; TRANSMIT_PACKET].into_boxed_slice(),
            in_use: None,
        });
        Ok(Self {
            transport,
            receive,
            arrivals,
            unannounced: 0,
            event,
            transmit,
            packets,
        })
    }

    /// Returns the device's present context id.
    pub(crate) fn cid(&self) -> Result<u64> {
        self.transport.read_consistent(|| {
            let low: u32 = self.transport.read_config_space(0)?;
            let high: u32 = self.transport.read_config_space(4)?;
            Ok(u64::from(low) | u64::from(high) << 32)
        })
    }

    /// Returns whether the device reported that all connections are gone. Acknowledges that, too:
    /// until then the device delivers no packets.
    pub(crate) fn was_reset(&mut self) -> Result<bool> {
        let event = self.event.poll(&mut self.transport, |event| {
            Ok(Some(event == TRANSPORT_RESET))
        });
        Ok(event? == Some(true))
    }

    /// Passes the next packet that came in to `take`. Returns whether there was one.
    pub(crate) fn receive(&mut self, take: impl FnOnce(&[u8])) -> Result<bool> {
        let Some(token) = self.receive.peek_used() else {
            return Ok(false);
        };
        let index = usize::from(token);
        let buffer = self.arrivals.get_mut(index).ok_or(Error::WrongToken)?;
        // SAFETY: this is the buffer that was added under this token.
        let length = unsafe { self.receive.pop_used(token, &[], &mut [buffer])? };
        let packet = usize::try_from(length).ok();
        take(
            packet
                .and_then(|length| buffer.get(..length))
                .ok_or(Error::IoError)?,
        );
        lend(&mut self.receive, index, buffer)?;
        self.unannounced += 1;
        if self.unannounced >= RECEIVE_BATCH {
            self.unannounced = 0;
            self.transport.notify(RECEIVE);
        }
        Ok(true)
    }

    /// Returns whether the device has taken all packets that were sent.
    pub(crate) fn is_idle(&mut self) -> Result<bool> {
        self.reclaim()?;
        Ok(self.packets.iter().all(|packet| packet.in_use.is_none()))
    }

    /// Sends the packets that `write` makes: it fills a buffer and returns a length, or `None`
    /// when there is nothing to send. Returns whether anything was sent.
    pub(crate) fn send(
        &mut self,
        mut write: impl FnMut(&mut [u8]) -> Option<usize>,
    ) -> Result<bool> {
        self.reclaim()?;
        let mut sent = false;
        for packet in self
            .packets
            .iter_mut()
            .filter(|packet| packet.in_use.is_none())
        {
            let Some(length) = write(&mut packet.buffer) else {
                break;
            };
            // SAFETY: the buffer is owned by `self`, which is never dropped while the device
            // runs, and is not touched while `in_use` is set.
            let token = unsafe { self.transmit.add(&[&packet.buffer[..length]], &mut [])? };
            packet.in_use = Some((token, length));
            sent = true;
        }
        if sent && self.transmit.should_notify() {
            self.transport.notify(TRANSMIT);
        }
        Ok(sent)
    }

    fn reclaim(&mut self) -> Result<()> {
        while let Some(token) = self.transmit.peek_used() {
            let with_token = |packet: &&mut Packet| packet.in_use.is_some_and(|(t, _)| t == token);
            let packet = self
                .packets
                .iter_mut()
                .find(with_token)
                .ok_or(Error::WrongToken)?;
            let length = packet.in_use.take().map_or(0, |(_, length)| length);
            // SAFETY: this is the buffer, and the part of it, that was added under this token.
            unsafe {
                self.transmit
                    .pop_used(token, &[&packet.buffer[..length]], &mut [])?
            };
        }
        Ok(())
    }
}

/// Gives a buffer to the device. The queue numbers buffers by its free descriptors: the first of all
/// at first, and then the one that was freed last, so that a buffer keeps its number.
fn lend(
    queue: &mut VirtQueue<IdentityMapping, RECEIVE_SLOTS>,
    index: usize,
    buffer: &mut [u8],
) -> Result<()> {
    // SAFETY: the buffer is owned by the socket, which is never dropped while the device runs, and
    // is not touched before it was popped.
    let token = unsafe { queue.add(&[], &mut [buffer])? };
    if usize::from(token) == index {
        Ok(())
    } else {
        Err(Error::WrongToken)
    }
}

/// The crate sets two status bits at once where Firecracker wants one after the other.
fn negotiate(transport: &mut MmioTransport<'static>) -> Result<()> {
    let mut status = DeviceStatus::empty();
    transport.set_status(status);
    for bit in [DeviceStatus::ACKNOWLEDGE, DeviceStatus::DRIVER] {
        status |= bit;
        transport.set_status(status);
    }
    if transport.read_device_features() & VERSION_1 == 0 {
        return Err(Error::Unsupported);
    }
    transport.write_driver_features(VERSION_1);
    status |= DeviceStatus::FEATURES_OK;
    transport.set_status(status);
    if transport.get_status().contains(DeviceStatus::FEATURES_OK) {
        Ok(())
    } else {
        Err(Error::NotReady)
    }
}
