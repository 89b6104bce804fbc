//! What every answer has in common: `success`, and for lists `count` and `next_cursor`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A body of success: the object's own fields beside `"success": true`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Success<T> {
    pub success: bool,
    #[serde(flatten)]
    pub body: T,
}

impl<T> Success<T> {
    pub fn of(body: T) -> Self {
        Self { success: true, body }
    }
}

/// An object that was just created, with a sentence for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Created<T> {
    pub message: String,
    #[serde(flatten)]
    pub body: T,
}

/// An answer without an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Done {
    pub message: String,
}

/// A list that comes in pages: what the client needs to put them together.
pub trait Paged {
    /// Where the next page starts; `None` on the last.
    fn next_cursor(&self) -> Option<&str>;
    /// Adds the next page's entries behind this one's.
    fn append(&mut self, next: Self);
}

/// Declares a list type: `{"count", "next_cursor", "<plural>": […]}`.
macro_rules! list {
    ($(#[$doc:meta])* $list:ident, $plural:ident: $entry:ty) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
        pub struct $list {
            /// How many entries this page has.
            pub count: usize,
            /// Pass it as `cursor` to get the next page; null on the last.
            pub next_cursor: Option<String>,
            pub $plural: Vec<$entry>,
        }

        impl $list {
            pub fn page($plural: Vec<$entry>, next_cursor: Option<String>) -> Self {
                Self { count: $plural.len(), next_cursor, $plural }
            }
        }

        impl $crate::lists::Paged for $list {
            fn next_cursor(&self) -> Option<&str> {
                self.next_cursor.as_deref()
            }
            fn append(&mut self, next: Self) {
                self.count += next.count;
                self.next_cursor = next.next_cursor;
                self.$plural.extend(next.$plural);
            }
        }
    };
}
pub(crate) use list;

/// Declares a status word: an enum, its text in JSON, and the same text for people. Texts are literals, taken as `tt`: the
/// OpenAPI derive does not see through what a macro captured as a literal, and would write the variants' names.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:tt),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $text)] $variant,)+
        }

        impl $name {
            /// All words, in order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}
pub(crate) use words;
