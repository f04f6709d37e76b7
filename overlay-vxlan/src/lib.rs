//! VXLAN and inner-frame codecs, forwarding database and switch

#![forbid(unsafe_code)]
