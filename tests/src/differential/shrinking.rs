//! Makes a round smaller whose streams differ: fewer clients, steps and messages.

use super::round::Round;
use super::script::{Finish, Script, Step};

/// The largest number of smaller rounds that are tried.
const TRIES_MAX: usize = 400;

/// The smallest round that was found for which `differs` is true; it is true for `round`. Differences that depend on time can be
/// lost; then the round stays larger.
pub fn shrink(round: &Round, differs: impl Fn(&Round) -> bool) -> Round {
    let mut smallest = round.clone();
    let mut tries = 0;
    loop {
        let smaller = smaller(&smallest).into_iter().find(|candidate| {
            tries += 1;
            tries <= TRIES_MAX && differs(candidate)
        });
        match smaller {
            Some(smaller) => smallest = smaller,
            None => return smallest,
        }
    }
}

/// Rounds with one part less, the largest parts first.
fn smaller(round: &Round) -> Vec<Round> {
    let mut candidates = Vec::new();
    let count = round.scripts.len();
    for number in (0..count).filter(|_| count > 1) {
        // Without all others, or without this one.
        candidates.push(Round {
            scripts: vec![round.scripts[number].clone()],
        });
        let mut scripts = round.scripts.clone();
        scripts.remove(number);
        candidates.push(Round { scripts });
    }
    for (number, script) in round.scripts.iter().enumerate() {
        for smaller in smaller_scripts(script) {
            let mut scripts = round.scripts.clone();
            scripts[number] = smaller;
            candidates.push(Round { scripts });
        }
    }
    candidates
}

fn smaller_scripts(script: &Script) -> Vec<Script> {
    let with = |steps: Vec<Step>| Script {
        steps,
        ..script.clone()
    };
    let mut candidates = Vec::new();
    if script.finish != Finish::Terminate {
        candidates.push(Script {
            finish: Finish::Terminate,
            ..script.clone()
        });
    }
    // Halves first, then single steps. The other steps need the barriers around them.
    let half = script.steps.len() / 2;
    if half > 1 {
        candidates.push(with(script.steps[..half].to_vec()));
        candidates.push(with([&[Step::Barrier], &script.steps[half..]].concat()));
    }
    for (number, step) in script.steps.iter().enumerate() {
        if *step != Step::Barrier {
            let mut steps = script.steps.clone();
            steps.remove(number);
            candidates.push(with(steps));
        }
    }
    for (number, step) in script.steps.iter().enumerate() {
        let Step::Send(messages) = step else { continue };
        for position in (0..messages.len()).filter(|_| messages.len() > 1) {
            let mut fewer = messages.clone();
            fewer.remove(position);
            let mut steps = script.steps.clone();
            steps[number] = Step::Send(fewer);
            candidates.push(with(steps));
        }
    }
    candidates
}

#[cfg(test)]
mod tests {
    use super::super::generator::Mix;
    use super::super::script::Message;
    use super::*;

    #[test]
    fn what_a_difference_does_not_need_is_removed() {
        let has_copy_done = |round: &Round| {
            let messages = round.scripts.iter().flat_map(|script| &script.steps);
            messages
                .flat_map(Step::messages)
                .any(|message| message == Message::CopyDone)
        };
        let round = Round::generate(1, 0, &["acme", "beta"], 3, Mix::Everything);
        assert!(has_copy_done(&round), "the seed has one");
        let smallest = shrink(&round, has_copy_done);
        assert_eq!(smallest.scripts.len(), 1);
        let script = &smallest.scripts[0];
        let sent: Vec<Message> = script
            .steps
            .iter()
            .filter(|step| **step != Step::Barrier)
            .flat_map(Step::messages)
            .collect();
        assert_eq!(sent, [Message::CopyDone]);
        assert_eq!(script.finish, Finish::Terminate);
    }
}
