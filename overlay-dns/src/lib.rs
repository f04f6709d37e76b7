//! Sans-IO DNS: zones from endpoints and services, answers, forwarding

#![forbid(unsafe_code)]
