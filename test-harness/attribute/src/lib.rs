//! `#[test]` and `#[tokio::test]` of suites under `ironclaw-test-harness`.

#![forbid(unsafe_code)]

use proc_macro::{Delimiter, TokenStream, TokenTree};

/// Registers a function as a test. An `async` function runs on a Tokio runtime, configured by the
/// arguments of `tokio::test`.
///
/// `#[ignore]`, below this attribute, is the only other attribute of tests that is supported.
#[proc_macro_attribute]
pub fn test(arguments: TokenStream, item: TokenStream) -> TokenStream {
    match registered(&arguments.to_string(), item) {
        Ok(tokens) => tokens,
        Err(reason) => format!("::core::compile_error!({reason:?});")
            .parse()
            .unwrap_or_default(),
    }
}

fn registered(arguments: &str, item: TokenStream) -> Result<TokenStream, String> {
    let mut kept = TokenStream::new();
    let mut head = Head::default();
    let mut tokens = item.into_iter();
    while let Some(token) = tokens.next() {
        match (&token, &head.name) {
            (TokenTree::Punct(mark), None) if mark.as_char() == '#' => {
                let Some(TokenTree::Group(attribute)) = tokens.next() else {
                    return Err("an attribute follows `#`".to_owned());
                };
                match attribute_name(&attribute.stream()).as_str() {
                    // `#[ignore]` is unknown on a function that is no test of rustc's.
                    "ignore" => head.is_ignored = true,
                    "should_panic" => {
                        return Err("#[should_panic] is not supported: catch the panic".to_owned());
                    }
                    _ => kept.extend([token, TokenTree::Group(attribute)]),
                }
                continue;
            }
            (TokenTree::Ident(word), None) if word.to_string() == "async" => head.is_async = true,
            (TokenTree::Ident(word), None) if word.to_string() == "fn" => {
                let Some(name) = tokens.next() else {
                    return Err("a function has a name".to_owned());
                };
                head.name = Some(name.to_string());
                kept.extend([token, name]);
                continue;
            }
            (TokenTree::Group(group), None) if group.delimiter() == Delimiter::Brace => {
                return Err("only functions are tests".to_owned());
            }
            _ => {}
        }
        kept.extend([token]);
    }
    head.around(arguments, kept)
}

/// The parsed head of a function, before its body.
#[derive(Default)]
struct Head {
    name: Option<String>,
    is_async: bool,
    is_ignored: bool,
}

impl Head {
    fn around(self, arguments: &str, function: TokenStream) -> Result<TokenStream, String> {
        let name = self.name.ok_or("only functions are tests")?;
        let runtime = match (self.is_async, arguments) {
            (false, "") => String::new(),
            (false, _) => return Err(format!("{name} takes no runtime: it is not async")),
            // The default of `tokio::test`.
            (true, "") => "#[::tokio::main(flavor = \"current_thread\")]".to_owned(),
            (true, arguments) => format!("#[::tokio::main({arguments})]"),
        };
        let ignored = self.is_ignored;
        let registration = format!("::ironclaw_test_harness::register!({name}, {ignored});")
            .parse::<TokenStream>();
        let runtime = runtime.parse::<TokenStream>();
        let (Ok(mut all), Ok(registration)) = (runtime, registration) else {
            return Err(format!("{name} can't be registered"));
        };
        all.extend(function);
        all.extend(registration);
        Ok(all)
    }
}

fn attribute_name(attribute: &TokenStream) -> String {
    let first = attribute.clone().into_iter().next();
    first.map(|token| token.to_string()).unwrap_or_default()
}
