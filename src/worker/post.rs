//! What deliveries are sent with: the way to the mail server, the HTTP client, and the secrets that notices name.

use std::sync::{Arc, Mutex, PoisonError};

use secrecy::SecretString;

use crate::connection::environment::Environment;
use crate::connection::secret::SecretRef;
use crate::delivery::Trouble;
use crate::delivery::email::{Mail, Mailer};
use crate::delivery::outside::Outside;
use crate::settings::Settings;
use crate::telemetry::Chain;

/// What deliveries are sent with.
#[derive(Clone, Debug)]
pub struct Post {
    mail: Option<Mail>,
    pub(super) environment: Environment,
    /// The client for all but vendors.
    pub outside: Outside,
    mailer: Arc<Mutex<Option<Mailer>>>,
}

impl Post {
    /// What these settings say. Reads no secret yet.
    pub fn new(settings: &Settings, outside: Outside) -> Post {
        Post { mail: settings.mail.clone(), environment: settings.environment.clone(), outside, mailer: Arc::default() }
    }

    /// The way to the mail server; its secrets are read when it is made.
    pub fn mailer(&self) -> Result<Mailer, Trouble> {
        let mut cached = self.mailer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mailer) = &*cached {
            return Ok(mailer.clone());
        }
        let Some(mail) = &self.mail else {
            return Err(Trouble::Person("the config of this process has no `mail:`".into()));
        };
        let mailer = Mailer::new(mail, &self.environment)?;
        *cached = Some(mailer.clone());
        Ok(mailer)
    }

    /// The next mail reads the secrets anew.
    pub(super) fn forget_mailer(&self) {
        *self.mailer.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Reads a secret that a notice names.
    pub fn secret(&self, text: &str) -> Result<SecretString, Trouble> {
        // Frozen with an absolute path.
        let secret = SecretRef::parse(text, std::path::Path::new("/"));
        let secret = secret.map_err(|why| Trouble::Refused(why.to_owned()))?;
        secret.read(&|name| self.environment.get(name)).map_err(|e| Trouble::Person(Chain(&e).to_string()))
    }

    /// A URL that stands in a notice, or the secret that it names.
    pub(super) fn url(&self, text: &str) -> Result<SecretString, Trouble> {
        if text.starts_with("env:") || text.starts_with("file:") {
            self.secret(text)
        } else {
            Ok(text.to_owned().into())
        }
    }
}
