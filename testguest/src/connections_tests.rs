use alloc::vec;

use ironclaw_protocol::frame::MAGIC;

use super::*;
use crate::fake_machine::FakeMachine;

const CID: u64 = 3;
const PORT: u32 = 1 << 30;

fn packet(operation: Operation, port: u32, body: &[u8]) -> Vec<u8> {
    let header = Header {
        source_cid: HOST,
        target_cid: CID,
        source_port: port,
        target_port: VSOCK_PORT,
        length: u32::try_from(body.len()).unwrap(),
        kind: STREAM,
        operation,
        flags: 0,
        buffer: 1000,
        taken: 0,
    };
    [&header.to_bytes()[..], body].concat()
}

fn next(connections: &mut Connections) -> Option<(Header, Vec<u8>)> {
    let mut buffer = vec![0; HEADER + 4096];
    let length = connections.next_packet(&mut buffer)?;
    Some((
        Header::read(&buffer).unwrap(),
        buffer[HEADER..length].to_vec(),
    ))
}

fn operations(connections: &mut Connections) -> Vec<Operation> {
    core::iter::from_fn(|| next(connections))
        .map(|(header, _)| header.operation)
        .collect()
}

fn connected() -> Connections {
    let mut connections = Connections::new(CID);
    connections.receive(&packet(Operation::Request, PORT, &[]));
    assert_eq!(operations(&mut connections), [Operation::Response]);
    connections
}

/// A magic and a frame that announces too much, which the session answers with a fault.
fn garbage() -> Vec<u8> {
    [&MAGIC[..], &[0xff; 8]].concat()
}

#[test]
fn a_connection_more_than_the_table_holds_is_refused() {
    let mut connections = Connections::new(CID);
    for port in 0..=8 {
        connections.receive(&packet(Operation::Request, port, &[]));
    }
    let answers = core::iter::from_fn(|| next(&mut connections)).collect::<Vec<_>>();
    let refused = answers
        .iter()
        .filter(|(header, _)| header.operation == Operation::Reset);
    assert_eq!(
        refused
            .map(|(header, _)| header.target_port)
            .collect::<Vec<_>>(),
        [8]
    );
    assert_eq!(connections.len(), MAX_CONNECTIONS);
}

#[test]
fn packets_of_no_connection_and_for_another_guest_are_refused() {
    let mut connections = connected();
    connections.receive(&packet(Operation::Data, PORT + 1, b"x"));
    assert_eq!(operations(&mut connections), [Operation::Reset]);
    let mut stray = packet(Operation::Request, PORT + 1, &[]);
    stray[8] = 4;
    connections.receive(&stray);
    assert_eq!(operations(&mut connections), [Operation::Reset]);
    connections.receive(&packet(Operation::Reset, PORT + 1, &[]));
    assert_eq!(operations(&mut connections), [], "a reset is not answered");
    assert_eq!(connections.len(), 1);
}

#[test]
fn a_connection_that_the_host_shuts_down_is_gone() {
    let mut connections = connected();
    connections.receive(&packet(Operation::Shutdown, PORT, &[]));
    assert_eq!(operations(&mut connections), [Operation::Reset]);
    assert!(connections.is_empty());
}

#[test]
fn connections_of_before_a_restore_are_dropped_without_a_word() {
    let mut connections = connected();
    connections.reset(CID + 1);
    assert_eq!(operations(&mut connections), []);
    connections.receive(&packet(Operation::Request, PORT, &[]));
    assert_eq!(
        operations(&mut connections),
        [Operation::Reset],
        "the old context id"
    );
}

#[test]
fn a_fault_is_sent_before_the_connection_is_shut_down() {
    let mut guest = FakeMachine::default().guest();
    let mut connections = connected();
    connections.receive(&packet(Operation::Data, PORT, &garbage()));
    assert!(connections.pump(&mut guest));
    assert_eq!(
        operations(&mut connections),
        [Operation::Data, Operation::Shutdown]
    );
    assert!(connections.is_drained());
}

#[test]
fn no_more_is_sent_than_the_host_has_room_for() {
    let mut guest = FakeMachine::default().guest();
    let mut connections = Connections::new(CID);
    let mut request = packet(Operation::Request, PORT, &[]);
    request[36..40].copy_from_slice(&5_u32.to_le_bytes());
    connections.receive(&request);
    let mut data = packet(Operation::Data, PORT, &garbage());
    data[36..40].copy_from_slice(&5_u32.to_le_bytes());
    connections.receive(&data);
    connections.pump(&mut guest);
    let sent = core::iter::from_fn(|| next(&mut connections)).collect::<Vec<_>>();
    let sent = sent
        .iter()
        .map(|(h, body)| (h.operation, body.len()))
        .collect::<Vec<_>>();
    let expected = [
        (Operation::Response, 0),
        (Operation::Data, 5),
        (Operation::CreditRequest, 0),
    ];
    assert_eq!(sent, expected);
    let mut update = packet(Operation::CreditUpdate, PORT, &[]);
    update[40..44].copy_from_slice(&5_u32.to_le_bytes());
    connections.receive(&update);
    let (header, body) = next(&mut connections).unwrap();
    assert_eq!(
        (header.operation, header.length as usize),
        (Operation::Data, body.len())
    );
    assert!(body.len() > 5);
}

#[test]
fn the_host_is_told_what_was_taken_before_it_runs_out_of_credit() {
    let mut guest = FakeMachine::default().guest();
    let mut connections = connected();
    let mut told = 0;
    for _ in 0..8 {
        connections.receive(&packet(Operation::Data, PORT, &[0; 16 * 1024]));
        connections.pump(&mut guest);
        while let Some((header, _)) = next(&mut connections) {
            assert_eq!(header.operation, Operation::CreditUpdate);
            told = header.taken;
        }
    }
    assert_eq!(told, 8 * 16 * 1024);
}

#[test]
fn a_host_that_overruns_the_buffer_loses_the_connection() {
    let mut connections = connected();
    for _ in 0..4 {
        connections.receive(&packet(Operation::Data, PORT, &[0; 16 * 1024]));
    }
    assert_eq!(connections.len(), 1);
    connections.receive(&packet(Operation::Data, PORT, &[0]));
    assert!(connections.is_empty());
}
