use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const GREETING: &str = "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\n";

async fn conversation(answers: &str) -> (Qmp, UnixStream) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(answers.as_bytes()).await.unwrap();
    let mut qmp = Qmp::new(ours);
    qmp.begin().await.unwrap();
    (qmp, theirs)
}

#[tokio::test]
async fn commands_are_answered_in_order_whatever_comes_between() {
    let answers = format!(
        "{GREETING}{{\"return\": {{}}}}\n{{\"event\": \"STOP\", \"timestamp\": {{}}}}\n\
         {{\"return\": {{}}}}\n"
    );
    let (mut qmp, mut qemu) = conversation(&answers).await;
    qmp.execute("stop", json!({})).await.unwrap();
    let mut heard = [0; 512];
    let length = qemu.read(&mut heard).await.unwrap();
    let heard = std::str::from_utf8(&heard[..length]).unwrap();
    let commands: Vec<Value> = heard
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(commands[0]["execute"], "qmp_capabilities");
    assert_eq!(commands[1]["execute"], "stop");
}

#[tokio::test]
async fn a_refusal_names_the_command_and_the_conversation_goes_on() {
    let answers = format!(
        "{GREETING}{{\"return\": {{}}}}\n{{\"error\": {{\"class\": \"GenericError\", \
         \"desc\": \"no\"}}}}\n{{\"return\": {{}}}}\n"
    );
    let (mut qmp, _qemu) = conversation(&answers).await;
    match qmp.execute("cont", json!({})).await {
        Err(QmpError::Refused {
            command: "cont",
            message,
        }) => assert_eq!(message, "no"),
        other => panic!("{other:?}"),
    }
    qmp.execute("stop", json!({})).await.unwrap();
}

#[tokio::test]
async fn the_words_of_a_refusal_are_bounded_and_drive_no_terminal() {
    let long = "x".repeat(untrusted::MAX_MESSAGE);
    let answers = format!(
        "{GREETING}{{\"return\": {{}}}}\n{{\"error\": {{\"desc\": \"\\u001b[2J{long}\"}}}}\n"
    );
    let (mut qmp, _qemu) = conversation(&answers).await;
    match qmp.execute("cont", json!({})).await {
        Err(QmpError::Refused { message, .. }) => {
            assert!(message.starts_with("[2Jx"), "{:?}", message.get(..9));
            assert_eq!(message.len(), untrusted::MAX_MESSAGE);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_end_of_the_process_ends_every_wait() {
    let (mut qmp, qemu) = conversation(GREETING).await;
    drop(qemu);
    assert!(matches!(qmp.settle().await, Err(QmpError::Io(_))));
}

#[tokio::test]
async fn an_endless_line_and_a_line_of_garbage_are_errors() {
    for garbage in ["x".repeat(2 * MAX_LINE), "garbage\n".to_owned()] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let writer = tokio::spawn(async move { theirs.write_all(garbage.as_bytes()).await });
        let mut qmp = Qmp::new(ours);
        qmp.begin().await.unwrap();
        assert!(matches!(qmp.settle().await, Err(QmpError::Malformed(_))));
        drop(qmp);
        let _ = writer.await.unwrap();
    }
}

#[tokio::test]
async fn an_event_that_came_before_the_answer_is_not_lost() {
    let answers = format!(
        "{GREETING}{{\"return\": {{}}}}\n{{\"event\": \"MIGRATION\", \"data\": {{\"status\": \
         \"completed\"}}}}\n{{\"return\": {{}}}}\n"
    );
    let (mut qmp, _qemu) = conversation(&answers).await;
    qmp.execute("migrate", json!({})).await.unwrap();
    let status = qmp
        .event(|event| event.data["status"].as_str().map(str::to_owned))
        .await;
    assert_eq!(status.unwrap(), "completed");
}
