package api

// Headers between front and pool instance, and what of them reaches the client.
const (
	HeaderRequestID  = "X-Request-Id"             // both ways
	HeaderHop        = "X-Claudepool-Hop"         // front to instance: the signed claims
	HeaderNotStarted = "X-Claudepool-Not-Started" // instance to front: nothing was run, try again
	HeaderInstance   = "X-Claudepool-Instance"    // to the client: which instance answered
	HeaderPID        = "X-Claudepool-Pid"         // to the client: which process
	HeaderProcess    = "X-Claudepool-Process"     // to the client: standby, reused, resumed or cold
)

// What stands in a stream beside events.
const (
	Ping = ": ping\n\n"
	Done = "data: [DONE]\n\n"
)
