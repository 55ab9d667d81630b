package api

import "github.com/tidwall/gjson"

// DecodeAs decodes a request that was written in another shape but has its messages in the same one. translate makes the
// fields of this contract, an object without messages, from the whole of what was sent. translated is the request in this
// contract's shape.
func DecodeAs(body []byte, translate func(whole gjson.Result) ([]byte, error)) (req *Request, translated []byte, err error) {
	whole, err := Object(body)
	if err != nil {
		return nil, nil, err
	}
	fields, err := translate(whole)
	if err != nil {
		return nil, nil, err
	}
	if len(fields) > maxField {
		return nil, nil, Invalid("what is beside the messages must not be longer than %d bytes", maxField)
	}
	messages := whole.Get("messages")
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
