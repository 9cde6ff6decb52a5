//! The integration tests: the real program, a real PostgreSQL, real HTTP on loopback, real files, processes that are killed.

#[cfg(test)]
mod archive;
#[cfg(test)]
mod bik;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod coverage;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod doctor;
#[cfg(test)]
mod embedded;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod firing;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod idle;
#[cfg(test)]
mod jaicp;
#[cfg(test)]
mod jobs;
#[cfg(test)]
mod landing;
#[cfg(test)]
mod life;
#[cfg(test)]
mod livechat;
#[cfg(test)]
mod mail;
#[cfg(test)]
mod mailing;
#[cfg(test)]
mod matrix;
#[cfg(test)]
mod notice_files;
#[cfg(test)]
mod notices;
#[cfg(test)]
mod outage;
#[cfg(test)]
mod promises;
#[cfg(test)]
mod readme;
#[cfg(test)]
mod receiver;
#[cfg(test)]
mod replicas;
#[cfg(test)]
mod retention;
#[cfg(test)]
mod s3;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod second_mail;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod serving;
#[cfg(test)]
mod siege;
#[cfg(test)]
mod smoke;
#[cfg(test)]
mod smtp;
#[cfg(test)]
mod status;
#[cfg(test)]
mod store;
#[cfg(test)]
mod tidy;
#[cfg(test)]
mod vendors;
#[cfg(test)]
mod verbs;
#[cfg(test)]
mod ways_out;
#[cfg(test)]
mod week;
#[cfg(test)]
mod why;
