package xlcfg

import (
	"fmt"
	"strings"

	"github.com/xenchan/xenchan/channel/domcfg"
)

// scalar is the text of a parameter that is a string or a number.
func (f *File) scalar(key string) (Value, bool, error) {
	v, ok := f.Get(key)
	if ok && v.Kind == List {
		return v, false, &Error{Message: f.message(v.Line, v.Col, key, fmt.Sprintf("%q is a list", key), "it must be a single value", "remove the brackets")}
	}
	return v, ok, nil
}

// DomainName is the parameter name, which xl requires. The error is an [*Error].
func (f *File) DomainName() (string, error) {
	v, ok, err := f.scalar("name")
	switch {
	case err != nil:
		return "", err
	case !ok:
		return "", &Error{Message: f.message(1, 1, "name", "the domain has no name", "xl requires one", `add name = "NAME"`)}
	case v.Text == "":
		return "", &Error{Message: f.message(v.Line, v.Col, "name", "the domain's name is empty", "", `give one: name = "NAME"`)}
	}
	return v.Text, nil
}

// DomainUUID is the parameter uuid in lower case, or "" when the file has none
// and xl makes one up. The error is an [*Error].
func (f *File) DomainUUID() (string, error) {
	v, ok, err := f.scalar("uuid")
	if err != nil || !ok {
		return "", err
	}
	if !domcfg.IsUUID(v.Text) {
		return "", &Error{Message: f.message(v.Line, v.Col, "uuid", fmt.Sprintf("%q is not a uuid", v.Text), "it has groups of 8, 4, 4, 4 and 12 hexadecimal digits", "make one with uuidgen, or leave uuid away")}
	}
	return strings.ToLower(v.Text), nil
}
