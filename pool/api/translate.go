package api

import "github.com/tidwall/gjson"

// DecodeAs decodes a request that was written in another shape but has its messages in the same one. translate makes
// the fields of this contract, an object without messages, from the whole of what was sent. translated is the request
// in this contract's shape.
func DecodeAs(body []byte, translate func(whole gjson.Result) ([]byte, error)) (req *Request, translated []byte,
	err error) {
	whole, err := Object(body)
	if err != nil {
		return nil, nil, err
	}
	messages := whole.Get("messages")
	tooLong := Invalid("what is beside the messages must not be longer than %d bytes", maxField)
	if len(whole.Raw)-len(messages.Raw) > maxField { // before anything is made of it
		return nil, nil, tooLong
	}
	fields, err := translate(whole)
	switch {
	case err != nil:
		return nil, nil, err
	case len(fields) > maxField:
		return nil, nil, tooLong
	}
	req, err = build(fields, body, messages)
	if err == nil {
		err = req.validate()
	}
	if err != nil {
		return nil, nil, err
	}
	req.digests = req.known()
	translated = make([]byte, 0, len(fields)+len(messages.Raw)+len(`,"messages":`))
	translated = append(append(translated, fields[:len(fields)-1]...), `,"messages":`...)
	return req, append(append(translated, messages.Raw...), '}'), nil
}
