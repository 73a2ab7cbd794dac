use super::sampler::Rule;
use super::*;
use crate::trace::CallId;

fn tracer(rule: Rule) -> &'static Tracer {
    let sampler = Sampler {
        rule,
        follows_parent: true,
    };
    Box::leak(Box::new(Tracer::new(
        sampler,
        Arc::new(Queue::new(100, 10)),
    )))
}

fn named(name: &str) -> impl FnOnce() -> String {
    let name = name.to_owned();
    move || name
}

#[test]
fn spans_inside_of_one_another_are_of_one_trace_that_has_the_call_s_id() {
    let tracer = tracer(Rule::Always);
    let mut trace = Trace::default();
    let server = tracer.begin(&mut trace, Kind::Server, named("outer"));
    let mut inner = trace.clone();
    let client = tracer.begin(&mut inner, Kind::Client, named("inner"));
    assert_eq!(trace.trace_id(), Some(trace.call_id.as_str()));
    assert_eq!(inner.trace_id(), trace.trace_id());
    let began = SystemTime::now();
    client.add(named("done"), (began, Duration::from_secs(1)), |notes| {
        notes.set("process.exit.code", 3_u64);
        notes.fail("it was bad");
    });
    drop(client.clone());
    assert_eq!(tracer.queue.count(), 1);
    drop(client);
    drop(server);
    let spans = tracer.queue.take();
    let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["done", "inner", "outer"]);
    let [done, inner, outer] = &spans[..] else {
        unreachable!()
    };
    assert_eq!(done.parent, Some(inner.context.span_id));
    assert_eq!(inner.parent, Some(outer.context.span_id));
    assert_eq!(outer.parent, None);
    assert_eq!(done.failure.as_deref(), Some("it was bad"));
    assert_eq!(done.elapsed, Duration::from_secs(1));
}

#[test]
fn a_caller_s_trace_goes_on_with_its_state() {
    let tracer = tracer(Rule::Never);
    let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut trace = Trace {
        call_id: CallId::default(),
        parent: TraceParent::new(given.as_bytes()),
        state: TraceState::new(b"vendor=1"),
    };
    let span = tracer.begin(&mut trace, Kind::Server, named("outer"));
    assert!(span.is_recorded());
    assert_eq!(trace.trace_id(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
    assert_ne!(trace.span_id(), Some("00f067aa0ba902b7"));
    assert!(trace.state.is_some());
    drop(span);
    let spans = tracer.queue.take();
    assert_eq!(
        spans[0].parent.unwrap(),
        0x00f0_67aa_0ba9_02b7_u64.to_be_bytes()
    );
}

#[test]
fn what_is_not_sampled_is_passed_on_as_such_and_not_recorded() {
    let tracer = tracer(Rule::Never);
    let mut trace = Trace {
        // Without a trace it has no meaning.
        state: TraceState::new(b"vendor=1"),
        ..Trace::default()
    };
    let span = tracer.begin(&mut trace, Kind::Server, || unreachable!());
    assert!(!span.is_recorded() && trace.state.is_none());
    let parent = trace.parent.clone().unwrap();
    assert!(!parent.context().unwrap().is_sampled());
    span.note(|_| unreachable!());
    let inner = tracer.begin(&mut trace, Kind::Client, || unreachable!());
    assert!(!inner.is_recorded());
    assert_eq!(trace.parent, Some(parent));
    assert_eq!(tracer.queue.count(), 0);
}

#[test]
fn a_span_may_be_left_out_and_a_text_is_cut() {
    let tracer = tracer(Rule::Always);
    let begin = || tracer.begin(&mut Trace::default(), Kind::Client, named("x"));
    begin().note(Notes::leave_out);
    assert_eq!(tracer.queue.count(), 0);
    begin().note(|notes| {
        notes.set("text", "é".repeat(TEXT_BYTES_MAX));
        notes.fail("x".repeat(2 * TEXT_BYTES_MAX));
    });
    let spans = tracer.queue.take();
    assert_eq!(spans[0].failure.as_ref().unwrap().len(), TEXT_BYTES_MAX);
    let cut = Value::from("é".repeat(TEXT_BYTES_MAX / 2));
    assert_eq!(spans[0].attributes, [("text", cut)]);
}

#[test]
fn an_id_of_another_form_makes_no_trace_id() {
    for id in ["seven", &"0".repeat(32), &"G".repeat(32), &"a".repeat(31)] {
        let mut trace = Trace {
            call_id: CallId::new(Some(id.as_bytes())),
            ..Trace::default()
        };
        drop(tracer(Rule::Always).begin(&mut trace, Kind::Server, named("x")));
        assert!(trace.trace_id().is_some_and(|trace| trace != id), "{id}");
    }
}
