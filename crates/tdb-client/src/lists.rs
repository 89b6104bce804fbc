//! The parts that all answers share: `success`, and for lists `count` and `next_cursor`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The body of a successful answer: `"success": true` and the fields of the object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Success<T> {
    /// Always true.
    pub success: bool,
    /// The object.
    #[serde(flatten)]
    pub body: T,
}

impl<T> Success<T> {
    /// A successful answer with this object.
    pub fn of(body: T) -> Self {
        Self { success: true, body }
    }
}

/// A new object, with a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Created<T> {
    /// What was created, as a sentence.
    pub message: String,
    /// The object.
    #[serde(flatten)]
    pub body: T,
}

/// An answer without an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// What was done, as a sentence.
    pub message: String,
}

/// A list that is returned in pages, which the client joins.
pub trait Paged {
    /// The cursor of the next page; `None` on the last page.
    fn next_cursor(&self) -> Option<&str>;
    /// Appends the entries of the next page.
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
            /// Pass it as `cursor` to get the next page; null on the last page.
            pub next_cursor: Option<String>,
            /// The entries of this page.
            pub $plural: Vec<$entry>,
        }

        impl $list {
            /// A page with these entries. `next_cursor` is `None` on the last page.
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

/// Declares an enum whose variants are texts in JSON and in messages. The texts are matched as `tt` because the OpenAPI
/// derive cannot read a token that a macro has matched as `literal`, and would write the variants' names.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:tt),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $text)] $variant,)+
        }

        impl $name {
            /// Every variant, in order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The variant's text in JSON.
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
