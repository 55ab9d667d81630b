// Package chat speaks OpenAI's chat completions: it translates their requests into those of the Messages API, and what
// that answers into theirs. It is pure functions over bytes, stands on package messages, and like that one knows of
// HTTP only headers, and no clock.
package chat
