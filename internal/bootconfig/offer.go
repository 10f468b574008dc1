// Package bootconfig is what a host tells its guests at their first boot, as values
// that a guest asks for by name (package mdata): what is offered, which of it is
// secret and given once, and what the guest says when it is done.
package bootconfig

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/xenchan/xenchan/agent/mdata"
	"github.com/xenchan/xenchan/toolstack"
)

// Names of values. Those that begin with sdc: are the host's in the protocol.
const (
	KeyUserData    = "cloud-init:user-data" // where cloud-init looks
	keyUserDataOld = "user-data"            // where other programs do
	KeyMetaData    = "meta-data"            // ours: of a NoCloud seed, as JSON
	KeyNetwork     = "network-config"       // ours: of a NoCloud seed
	KeyVendorData  = "sdc:vendor-data"

	keyUUID       = "sdc:uuid"
	keyHostname   = "hostname"
	keyName       = "sdc:hostname"
	keyAuthorized = "root_authorized_keys"
)

// Offer is what is offered to one domain.
type Offer struct {
	values, secrets map[string][]byte
	meta            map[string]any
}

// NewOffer is an offer of nothing yet.
func NewOffer() *Offer {
	return &Offer{values: make(map[string][]byte), secrets: make(map[string][]byte), meta: make(map[string]any)}
}

// Set offers a value, as often as a guest asks for it.
func (o *Offer) Set(key string, value []byte) error { return o.add(o.values, key, value) }

// SetSecret offers a value that is given once.
func (o *Offer) SetSecret(key string, value []byte) error {
	if len(value) == 0 {
		return fmt.Errorf("the secret %s is empty", key)
	}
	return o.add(o.secrets, key, value)
}

func (o *Offer) add(to map[string][]byte, key string, value []byte) error {
	if err := mdata.CheckKey(key); err != nil {
		return err
	}
	_, twice := o.values[key]
	if _, also := o.secrets[key]; twice || also || key == mdata.ReadyKey {
		return fmt.Errorf("the key %s is taken", key)
	}
	if len(value) > mdata.MaxValue {
		return fmt.Errorf("the value of %s has %d bytes; at most %d are possible, and a guest reads them slowly: let it fetch what is large by itself", key, len(value), mdata.MaxValue)
	}
	to[key] = value
	return nil
}

// SetUserData offers user-data under all names by which guests ask for it.
func (o *Offer) SetUserData(value []byte) error {
	return errors.Join(o.Set(KeyUserData, value), o.Set(keyUserDataOld, value))
}

// SetMetaData offers the fields of a meta-data file of cloud-init, in YAML or JSON.
func (o *Offer) SetMetaData(text []byte) error {
	if err := yaml.Unmarshal(text, &o.meta); err != nil {
		return fmt.Errorf("meta-data is a list of KEY: VALUE, in YAML or JSON: %w", err)
	}
	if o.meta == nil {
		o.meta = make(map[string]any)
	}
	for _, field := range []string{"instance-id", "local-hostname"} {
		switch v := o.meta[field].(type) {
		case nil:
			delete(o.meta, field)
		case string:
			if strings.TrimSpace(v) == "" {
				return fmt.Errorf("meta-data: %s is empty", field)
			}
		default:
			return fmt.Errorf("meta-data: %s is %v, and must be a text: put it between quotation marks", field, v)
		}
	}
	return nil
}

// SecretKeys are the names of what is given once.
func (o *Offer) SecretKeys() []string { return slices.Sorted(maps.Keys(o.secrets)) }

// For is the offer to a domain: where nothing else is said, its name is that of the
// domain, and its instance-id the domain's uuid, which a reboot does not change.
func (o *Offer) For(d toolstack.Domain) (*Offer, error) {
	meta := map[string]any{"local-hostname": d.Name, "instance-id": d.UUID}
	maps.Copy(meta, o.meta)
	text, err := json.Marshal(meta)
	if err != nil {
		return nil, fmt.Errorf("meta-data: %w", err) // such as a key that is no text
	}
	all := map[string][]byte{
		KeyMetaData: text,
		keyUUID:     []byte(fmt.Sprint(meta["instance-id"])),
		keyHostname: []byte(fmt.Sprint(meta["local-hostname"])),
		keyName:     []byte(d.Name),
	}
	if keys := authorizedKeys(meta["public-keys"]); keys != "" {
		all[keyAuthorized] = []byte(keys)
	}
	maps.Copy(all, o.values)
	return &Offer{values: all, secrets: o.secrets}, nil
}

// authorizedKeys is the field public-keys as lines: it is a text, or a list of
// texts, or names with a text each.
func authorizedKeys(field any) string {
	switch f := field.(type) {
	case string:
		return strings.TrimSpace(f)
	case []any:
		var lines []string
		for _, v := range f {
			lines = append(lines, authorizedKeys(v))
		}
		return strings.Join(lines, "\n")
	case map[string]any:
		var lines []string
		for _, name := range slices.Sorted(maps.Keys(f)) {
			lines = append(lines, authorizedKeys(f[name]))
		}
		return strings.Join(lines, "\n")
	}
	return ""
}
