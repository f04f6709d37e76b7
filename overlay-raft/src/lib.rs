//! Sans-IO Raft consensus with its wire codec and its log on a disk

#![forbid(unsafe_code)]
