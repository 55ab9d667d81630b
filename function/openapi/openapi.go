// Package openapi is the description of the whole service in OpenAPI 3.1: what there is to ask for, and what the
// answers look like. Nothing is checked by it but in tests.
package openapi

import (
	_ "embed"

	"sigs.k8s.io/yaml"
)

//go:embed openapi.yaml
var source []byte

// Document returns the description as JSON.
func Document() []byte {
	text, err := yaml.YAMLToJSON(source)
	if err != nil {
		panic(err) // it is part of the program
	}
	return text
}
