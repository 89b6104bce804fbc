//! The progress of a deployment as server-sent events (WHATWG HTML, section 9.2).

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, StreamExt};
use tdb_client::events::{EventFields, EventName};
use tdb_control::{Control, DeploymentWatch, News};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::deployments::{job, render_summary, render_target};
use crate::extract::{Caller, InPath};
use crate::refusal::{Answer, Refusal};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Shorter than the time after which proxies close an idle connection.
const HEARTBEAT: Duration = Duration::from_secs(15);

pub(crate) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new().routes(routes!(watch_deployment))
}

/// Follow a deployment: an event for each target that changes and for the whole, until the deployment ends
#[utoipa::path(get, path = "/deployments/{id}/events", tag = "deployments",
    params(("id" = String, Path, description = "dep_…"),
        ("Last-Event-ID" = Option<u64>, Header, description = "The id of the last event received before the connection was lost")),
    responses(
        (status = 200, description = "Events `target` (data: a target) and `deployment` (data: the deployment without its targets), each \
            with an id; a comment at least every 15 seconds. The stream ends after the deployment has.",
            body = EventFields, content_type = "text/event-stream"),
        (status = 204, description = "The deployment has ended, and there is no event after the last one")))]
async fn watch_deployment(
    State(control): State<Control>,
    caller: Caller,
    InPath(id): InPath<String>,
    headers: HeaderMap,
) -> Answer<Response> {
    let seen = last_event(&headers)?;
    let watch = control.watches.watch(&caller.identity, &job(&id)?, seen).await?;
    if watch.is_exhausted() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let news = stream::unfold(watch, async |mut watch: DeploymentWatch| {
        let news = watch.next().await?;
        Some((news, watch))
    });
    let events = news.flat_map(|news| stream::iter(events(news)));
    let sse = Sse::new(events.map(Ok::<Event, Infallible>));
    Ok(sse
        .keep_alive(KeepAlive::new().interval(HEARTBEAT).text("still there"))
        .into_response())
}

fn last_event(headers: &HeaderMap) -> Answer<Option<u64>> {
    let Some(value) = headers.get(LAST_EVENT_ID) else {
        return Ok(None);
    };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number
        .map(Some)
        .ok_or_else(|| Refusal::invalid("Last-Event-ID", "must be the id of an event"))
}

/// The whole deployment comes last: a client that has received its event has received the targets' events too.
fn events(news: News) -> Vec<Event> {
    let targets = news.targets.into_iter().map(|(number, target)| {
        let target = render_target((*target).clone());
        named(EventName::Target, number, &target)
    });
    let mut events: Vec<Event> = targets.collect();
    events.push(named(EventName::Deployment, news.number, &render_summary(news.summary)));
    events
}

fn named(name: EventName, number: u64, data: &impl serde::Serialize) -> Event {
    let event = Event::default().event(name.as_str()).id(number.to_string());
    // Our types can always be converted to JSON; browsers ignore an event without data.
    event.json_data(data).unwrap_or_default()
}
