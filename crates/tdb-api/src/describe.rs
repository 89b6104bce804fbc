//! The parts of the OpenAPI document that are the same for all handlers.

use tdb_client::problems::{PROBLEM_JSON, Problem};
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{Object, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{Content, License, OpenApi, Ref, RefOr, Required, ResponseBuilder};
use utoipa::{PartialSchema, ToSchema};

use crate::once::{CREATING, HEADER};

/// Adds the API's name, its authentication, and the problem document that every operation may return.
pub(crate) fn complete(document: &mut OpenApi) {
    document.info.title = "TenantsDB admin API".to_owned();
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    document.info.description = Some("Design a schema once, deploy it to isolated tenant databases.".to_owned());
    document.info.contact = None;
    document.info.license = Some(License::new("MIT OR Apache-2.0"));
    let components = document.components.get_or_insert_default();
    let mut schemas = Vec::new();
    Problem::schemas(&mut schemas);
    components.schemas.extend(schemas);
    components
        .schemas
        .insert(Problem::name().into_owned(), Problem::schema());
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    components.add_security_scheme(
        "key",
        SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key"))),
    );
    for (path, item) in &mut document.paths.paths {
        if CREATING.contains(&path.as_str())
            && let Some(create) = &mut item.post
        {
            create.parameters.get_or_insert_default().push(idempotency_key().into());
        }
        let operations = [&mut item.get, &mut item.post, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            describe(operation, access_of(path));
        }
    }
}

fn idempotency_key() -> Parameter {
    let text = Object::builder()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(255));
    ParameterBuilder::new()
        .name(HEADER)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "Identifies this request for 24 hours. A repeated request with the same key, API key and body creates nothing and gets \
             the same response; it is refused with another body (422), and while the first is still running (409). A refusal \
             releases the key.",
        ))
        .schema(Some(text))
        .build()
}

/// All endpoints except these require a key.
fn access_of(path: &str) -> Access {
    match path {
        "/" | "/health" | "/signup" | "/login" => Access::Open,
        _ => Access::ByKey,
    }
}

enum Access {
    Open,
    ByKey,
}

fn describe(operation: &mut Operation, access: Access) {
    let content = Content::new(Some(RefOr::Ref(Ref::from_schema_name(Problem::name()))));
    let problem = ResponseBuilder::new()
        .description("A problem document (RFC 9457)")
        .content(PROBLEM_JSON, content)
        .build();
    operation
        .responses
        .responses
        .insert("default".to_owned(), RefOr::T(problem));
    operation.security = match access {
        Access::Open => None,
        Access::ByKey => {
            let none: [&str; 0] = [];
            Some(vec![
                SecurityRequirement::new("bearer", none),
                SecurityRequirement::new("key", none),
            ])
        }
    };
}
