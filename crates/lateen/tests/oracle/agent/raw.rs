//! Bytes as they are, and what comes back until the other side ends the connection or falls silent.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::{connect, millis, name, now};
use crate::op::{Bytes, End, Exchange};

pub(super) async fn exchange(bytes: &Bytes) -> Exchange {
    let (start, began) = (Instant::now(), now());
    let (mut stream, local) = match connect(&bytes.address).await {
        Ok(connected) => connected,
        Err(error) => return Exchange { error: Some(error), ..Exchange::default() },
    };
    let mut exchange = Exchange { local, began, end: Some(End::Open), ..Exchange::default() };
    let quiet = Duration::from_millis(bytes.quiet);
    let parts = bytes.parts.len().max(1);
    for index in 0..parts {
        if let Some(part) = bytes.parts.get(index)
            && stream.write_all(part).await.is_err()
        {
            exchange.end = Some(End::Reset);
            break;
        }
        if index + 1 == parts && bytes.finish {
            // Fails if the other side has ended already, which the next read tells.
            let _ = stream.shutdown().await;
        }
        loop {
            match timeout(quiet, stream.read_buf(&mut exchange.body)).await {
                Err(_) => break,
                Ok(Ok(0)) => exchange.end = Some(End::Closed),
                Ok(Ok(_)) => continue,
                Ok(Err(error)) => {
                    exchange.end = Some(End::Reset);
                    exchange.error = (name(&error) != "reset").then(|| name(&error).to_owned());
                }
            }
            exchange.millis = millis(start);
            return exchange;
        }
    }
    exchange.millis = millis(start);
    exchange
}
