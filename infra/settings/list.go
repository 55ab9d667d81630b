package settings

import "reflect"

// Whose setting it is.
const (
	OfBoth  = "both"
	OfFront = "front"
	OfPool  = "pool"
)

// Setting describes one setting, for documents and deployments to be compared with.
type Setting struct {
	Name    string // of the environment variable
	Default string // as it would be written there; "" where there is none
	Unset   string // in words, what holds where there is no default
	Of      string // OfBoth, OfFront or OfPool
	Must    string // what a value must be, to follow "must"
	About   string // what it is for
	Secret  bool
}

// List returns all settings: those of both first, then the front's, then the pool's, in the order of their fields.
func List() []Setting {
	var list []Setting
	list = appendOf(list, OfBoth, reflect.TypeFor[Common](), false)
	list = appendOf(list, OfFront, reflect.TypeFor[Front](), true)
	return appendOf(list, OfPool, reflect.TypeFor[Pool](), true)
}

// appendOf appends the settings of a struct, without those it has from Common where they were listed before.
func appendOf(list []Setting, of string, t reflect.Type, ownOnly bool) []Setting {
	for _, field := range fieldsOf(t) {
		if ownOnly && len(field.Index) > 1 {
			continue
		}
		name := field.Tag.Get("env")
		list = append(list, Setting{
			Name: name, Default: field.Tag.Get("envDefault"), Unset: field.Tag.Get("unset"), Of: of,
			Must: texts[name].must, About: texts[name].about, Secret: field.Type == reflect.TypeFor[Secret](),
		})
	}
	return list
}

// fieldsOf returns the fields that are settings, also those of an embedded struct.
func fieldsOf(t reflect.Type) []reflect.StructField {
	var fields []reflect.StructField
	for _, field := range reflect.VisibleFields(t) {
		if field.Tag.Get("env") != "" {
			fields = append(fields, field)
		}
	}
	return fields
}
