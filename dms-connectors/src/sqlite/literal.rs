//! Values of any storage class as SQL literals, for columns that hold a mix of them.

use std::fmt::Write;

use super::cursor::Cell;

/// Writes a value as the literal that stands for exactly it: `12`, `1.5`, `9e999`, `'te''xt'`,
/// `X'00FF'`; text that is not UTF-8 or holds a NUL as `CAST(X'…' AS TEXT)`. NULL has none.
pub(super) fn write(out: &mut String, cell: Cell<'_>) {
    // Writing to a string cannot fail.
    match cell {
        Cell::Null => {}
        Cell::Integer(value) => {
            let _ = write!(out, "{value}");
        }
        Cell::Real(value) => write_real(out, value),
        Cell::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => {
                out.push('\'');
                out.push_str(&text.replace('\'', "''"));
                out.push('\'');
            }
            _ => {
                out.push_str("CAST(");
                write_hex(out, bytes);
                out.push_str(" AS TEXT)");
            }
        },
        Cell::Blob(bytes) => write_hex(out, bytes),
    }
}

/// The shortest digits that read back as the same float, always with a point or exponent.
pub(super) fn write_real(out: &mut String, value: f64) {
    let _ = if value.is_infinite() {
        out.write_str(if value > 0.0 { "9e999" } else { "-9e999" })
    } else {
        write!(out, "{value:?}")
    };
}

fn write_hex(out: &mut String, bytes: &[u8]) {
    out.push_str("X'");
    for byte in bytes {
        let _ = write!(out, "{byte:02X}");
    }
    out.push('\'');
}

/// A value read back from its literal.
#[derive(Debug, PartialEq)]
pub(super) enum Literal {
    Integer(i64),
    Real(f64),
    Text(Vec<u8>),
    Blob(Vec<u8>),
}

/// Reads what [`write`] writes; `None` for anything else.
pub(super) fn parse(text: &str) -> Option<Literal> {
    if let Some(quoted) = text.strip_prefix('\'') {
        let inner = quoted.strip_suffix('\'')?;
        let lone_quote = inner.replace("''", "").contains('\'');
        return (!lone_quote).then(|| Literal::Text(inner.replace("''", "'").into_bytes()));
    }
    if let Some(cast) = text.strip_prefix("CAST(") {
        return parse_hex(cast.strip_suffix(" AS TEXT)")?).map(Literal::Text);
    }
    if text.starts_with('X') {
        return parse_hex(text).map(Literal::Blob);
    }
    if let Ok(integer) = text.parse() {
        return Some(Literal::Integer(integer));
    }
    let digits = text.bytes().all(|b| b.is_ascii_digit() || b"+-.e".contains(&b));
    digits.then(|| text.parse().ok().map(Literal::Real))?
}

fn parse_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("X'")?.strip_suffix('\'')?.as_bytes();
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    if digits.len() % 2 != 0 {
        return None;
    }
    digits.chunks(2).map(|pair| Some(digit(pair.first()?)? << 4 | digit(pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(cell: Cell<'_>) -> Literal {
        let mut text = String::new();
        write(&mut text, cell);
        parse(&text).unwrap_or_else(|| panic!("{text}"))
    }

    proptest! {
        #[test]
        fn any_value_comes_back(integer in any::<i64>(), real in any::<f64>(),
                                bytes in proptest::collection::vec(any::<u8>(), 0..20),
                                text in "[ -~\0é']{0,12}") {
            prop_assert_eq!(round_trip(Cell::Integer(integer)), Literal::Integer(integer));
            if !real.is_nan() {
                prop_assert_eq!(round_trip(Cell::Real(real)), Literal::Real(real));
            }
            prop_assert_eq!(round_trip(Cell::Blob(&bytes)), Literal::Blob(bytes.clone()));
            prop_assert_eq!(round_trip(Cell::Text(&bytes)), Literal::Text(bytes.clone()));
            prop_assert_eq!(
                round_trip(Cell::Text(text.as_bytes())),
                Literal::Text(text.clone().into_bytes())
            );
        }
    }

    #[test]
    fn edges() {
        for real in [0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, 5e-324, f64::MAX, 1e15] {
            let Literal::Real(back) = round_trip(Cell::Real(real)) else { panic!("{real}") };
            assert_eq!(back.to_bits(), real.to_bits());
        }
        for wrong in ["", "'", "'a'b'", "X'0'", "X'GG'", "abc", "NULL", "inf", "nan"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
