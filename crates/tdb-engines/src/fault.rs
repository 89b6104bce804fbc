//! Named points at which a test kills, hangs or stops the process. Builds without debug assertions do not contain them.

/// Marks a fault point, such as `point("tenant.create.cloned")`. Does nothing in this build.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_name: &str) {}

/// Always fails: this build has no fault points.
#[cfg(not(debug_assertions))]
pub fn arm(_spec: &str) -> Result<(), FaultSpecError> {
    Err(FaultSpecError::NotBuilt)
}

#[cfg(debug_assertions)]
pub use armed::{arm, point};

/// Why a fault was not armed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultSpecError {
    /// The program was built without debug assertions.
    #[error("this build has no fault points")]
    NotBuilt,
    /// The text is not in the form that [`arm`] reads.
    #[error("a fault is `name`, `name:N`, `name:hang` or `name:stop`, not \"{0}\"")]
    Malformed(String),
    /// A process can arm only one fault, once.
    #[error("a fault is already armed")]
    Twice,
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::FaultSpecError;

    /// The only global of the crate. It exists only in builds with debug assertions, and `main` sets it once.
    static FAULT: OnceLock<Fault> = OnceLock::new();

    struct Fault {
        name: String,
        passes_left: AtomicU32,
        action: Action,
    }

    enum Action {
        Kill,
        Hang,
        /// SIGSTOP: the process waits for SIGCONT.
        Stop,
    }

    /// Marks a fault point. If it is the armed one and has been passed the armed number of times, kills or stops the
    /// process, or blocks this thread permanently.
    pub fn point(name: &str) {
        let Some(fault) = FAULT.get().filter(|fault| fault.name == name) else {
            return;
        };
        let before = fault
            .passes_left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if before != Ok(1) {
            return;
        }
        match fault.action {
            // SIGKILL to ourselves: no destructor, no flush, as if the machine had lost power.
            Action::Kill => {
                signal("-KILL");
                std::process::abort();
            }
            Action::Stop => signal("-STOP"),
            Action::Hang => loop {
                std::thread::park();
            },
        }
    }

    /// Sends a signal to this process with the shell's built-in `kill`, since `/bin/kill` is not installed everywhere.
    fn signal(name: &str) {
        let pid = std::process::id().to_string();
        let _ = std::process::Command::new("sh")
            .args(["-c", "kill \"$0\" \"$1\"", name, &pid])
            .status();
    }

    /// Arms one point, once per process: `name` (kill at the first pass), `name:N` (kill at the N-th pass), `name:hang` or
    /// `name:stop` (at the first pass).
    pub fn arm(spec: &str) -> Result<(), FaultSpecError> {
        FAULT.set(parse(spec)?).map_err(|_| FaultSpecError::Twice)
    }

    fn parse(spec: &str) -> Result<Fault, FaultSpecError> {
        let malformed = || FaultSpecError::Malformed(spec.to_owned());
        let (name, rest) = spec.split_once(':').unwrap_or((spec, "1"));
        let (pass, action) = match rest {
            "hang" => (1, Action::Hang),
            "stop" => (1, Action::Stop),
            number => (number.parse::<u32>().map_err(|_| malformed())?, Action::Kill),
        };
        if name.is_empty() || pass == 0 {
            return Err(malformed());
        }
        Ok(Fault {
            name: name.to_owned(),
            passes_left: AtomicU32::new(pass),
            action,
        })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_spec_names_a_point_and_a_pass() {
            let fault = parse("tenant.create.cloned:3").unwrap();
            assert_eq!(
                (fault.name.as_str(), fault.passes_left.into_inner()),
                ("tenant.create.cloned", 3)
            );
            assert!(matches!(parse("a:hang").unwrap().action, Action::Hang));
            assert!(matches!(parse("a:stop").unwrap().action, Action::Stop));
            for bad in ["", ":1", "a:0", "a:x"] {
                assert!(parse(bad).is_err(), "{bad}");
            }
        }

        #[test]
        fn unarmed_points_do_nothing() {
            point("nowhere");
        }
    }
}
