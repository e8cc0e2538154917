//! What libpq's environment variables and password file say where a URL is silent.

use std::path::PathBuf;

use dms_core::{Error, Result};
use tokio_postgres::Config;
use tokio_postgres::config::Host;

/// A lookup of environment variables.
pub(super) type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The default of servers; a password file may name it.
const PORT: u16 = 5432;

/// Completes what a URL leaves out
/// (<https://www.postgresql.org/docs/current/libpq-envars.html>).
///
/// # Errors
/// `Settings` naming the variable.
pub(super) fn complete(config: &mut Config, variables: Variables<'_>) -> Result<()> {
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        let hosts = variables("PGHOST").unwrap_or_else(|| {
            let socket = "/var/run/postgresql";
            let exists = std::path::Path::new(socket).exists();
            if exists { socket } else { "localhost" }.to_owned()
        });
        for host in hosts.split(',') {
            config.host(host);
        }
    }
    // A URL with a host always has a port.
    if config.get_ports().is_empty()
        && let Some(port) = variables("PGPORT")
    {
        config.port(number(&port, "PGPORT")?);
    }
    if config.get_user().is_none()
        && let Some(user) = variables("PGUSER")
    {
        config.user(user);
    }
    if config.get_dbname().is_none()
        && let Some(name) = variables("PGDATABASE")
    {
        config.dbname(name);
    }
    if config.get_options().is_none()
        && let Some(options) = variables("PGOPTIONS")
    {
        config.options(options);
    }
    if config.get_application_name().is_none()
        && let Some(name) = variables("PGAPPNAME")
    {
        config.application_name(name);
    }
    if config.get_connect_timeout().is_none()
        && let Some(seconds) = variables("PGCONNECT_TIMEOUT")
    {
        let seconds = number(&seconds, "PGCONNECT_TIMEOUT")?;
        config.connect_timeout(std::time::Duration::from_secs(seconds));
    }
    if config.get_password().is_none()
        && let Some(password) = variables("PGPASSWORD").or_else(|| from_file(config, variables))
    {
        config.password(password);
    }
    Ok(())
}

/// `~/.postgresql`, where libpq looks for certificates.
pub(super) fn certificates_folder(variables: Variables<'_>) -> Option<PathBuf> {
    Some(PathBuf::from(variables("HOME")?).join(".postgresql"))
}

fn number<T: std::str::FromStr>(text: &str, variable: &str) -> Result<T> {
    text.trim()
        .parse()
        .map_err(|_| Error::settings(format!("environment variable {variable} is not a number")))
}

fn from_file(config: &Config, variables: Variables<'_>) -> Option<String> {
    let named = variables("PGPASSFILE").map(PathBuf::from);
    let path = named.or_else(|| Some(PathBuf::from(variables("HOME")?).join(".pgpass")))?;
    let text = std::fs::read_to_string(&path).ok()?;
    if is_open_to_others(&path) {
        tracing::warn!(
            path = %path.display(),
            "the password file is left alone: others may read it; chmod 600 it"
        );
        return None;
    }
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        // Sockets go by this name.
        _ => "localhost".to_owned(),
    };
    let port = config.get_ports().first().copied().unwrap_or(PORT).to_string();
    let user = config.get_user().unwrap_or_default();
    let database = config.get_dbname().unwrap_or(user);
    lookup(&text, [&host, &port, database, user])
}

#[cfg(unix)]
fn is_open_to_others(path: &std::path::Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn is_open_to_others(_: &std::path::Path) -> bool {
    false
}

/// The password of the first line that matches: `host:port:database:user:password`, `*` for any,
/// `\` before a colon or itself
/// (<https://www.postgresql.org/docs/current/libpq-pgpass.html>).
fn lookup(file: &str, wanted: [&str; 4]) -> Option<String> {
    file.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut rest = line;
        for wanted in wanted {
            let (field, after) = field(rest)?;
            rest = after;
            if field != wanted && field != "*" {
                return None;
            }
        }
        Some(field(rest).map_or_else(|| unescaped(rest), |(password, _)| password))
    })
}

/// The text up to the next colon, and what is behind that.
fn field(text: &str) -> Option<(String, &str)> {
    let mut escaped = false;
    let end = text.find(|c| {
        let ends = c == ':' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    })?;
    Some((unescaped(text.get(..end)?), text.get(end + 1..)?))
}

fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        out.extend(if c == '\\' { characters.next() } else { Some(c) });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_file_is_searched() {
        let file = "# mine\nother:*:*:*:wrong\ndb:5433:shop:me:s3\\:cr\\\\et\n*:*:*:me:any\nshort";
        let found = |wanted| lookup(file, wanted);
        assert_eq!(found(["db", "5433", "shop", "me"]).as_deref(), Some("s3:cr\\et"));
        assert_eq!(found(["db", "5432", "shop", "me"]).as_deref(), Some("any"));
        assert_eq!(found(["db", "5432", "shop", "you"]), None);
    }

    #[test]
    fn variables_complete_a_url() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwords");
        std::fs::write(&path, "db:6000:shop:me:from file").unwrap();
        let variables = |name: &str| {
            let path = path.to_str()?;
            let set = [
                ("PGHOST", "db"),
                ("PGPORT", "6000"),
                ("PGUSER", "me"),
                ("PGDATABASE", "shop"),
                ("PGPASSFILE", path),
            ];
            Some(set.iter().find(|(known, _)| *known == name)?.1.to_owned())
        };
        let completed = || {
            let mut config: Config = "postgres://".parse().unwrap();
            complete(&mut config, &variables).unwrap();
            config
        };
        set_mode(&path, 0o644);
        assert_eq!(completed().get_password(), None, "others may read it");
        set_mode(&path, 0o600);
        let config = completed();
        assert_eq!(config.get_hosts(), [Host::Tcp("db".into())]);
        assert_eq!(config.get_ports(), [6000]);
        assert_eq!((config.get_user(), config.get_dbname()), (Some("me"), Some("shop")));
        assert_eq!(config.get_password(), Some(b"from file".as_slice()));
        let mut config: Config = "postgres://you:p@here:1/that".parse().unwrap();
        complete(&mut config, &variables).unwrap();
        assert_eq!((config.get_user(), config.get_ports()), (Some("you"), [1].as_slice()));
        let bad = |name: &str| (name == "PGPORT").then(|| "x".to_owned());
        let error = complete(&mut "postgres://".parse().unwrap(), &bad).unwrap_err();
        assert!(error.to_string().contains("PGPORT"), "{error}");
    }

    fn set_mode(path: &std::path::Path, mode: u32) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
}
