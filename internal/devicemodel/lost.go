package devicemodel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/xenchan/xenchan/channel/convert"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xenbus"
	"github.com/xenchan/xenchan/xenstore"
)

// How long libxl may need to finish a domain, and how often that is looked at: it
// writes down what the domain is made of when it has made it, a moment after it has
// talked to the device model, and soon lets it run. A guest that is restored does not
// expect devices to come later.
const (
	finishWithin = 5 * time.Minute
	finishPoll   = 20 * time.Millisecond
)

// RestoreLost makes the channel that libxl has lost ([standin.Request.Lost]), if there is
// one. Its name is not on the command line, but in what libxl keeps about the domain.
func RestoreLost(ctx context.Context, c Config) error {
	if !c.Lost() {
		return nil
	}
	return newModel(c).restoreLost(ctx)
}

func (m *model) restoreLost(ctx context.Context) error {
	soon, cancel := context.WithTimeout(ctx, finishWithin)
	defer cancel()
	file, text, err := m.libxlConfig(soon)
	if err != nil {
		return fmt.Errorf("libxl has lost the first channel, and what it was is not known: %w", err)
	}
	config, err := convert.Parse(file, text)
	if err != nil {
		return err
	}
	channels, _, err := config.Channels()
	if err != nil {
		return err
	}
	if len(channels) == 0 {
		return fmt.Errorf("%s has no channels", file)
	}
	spec := channels[0].Spec
	all, err := m.tools.Channels(ctx, m.domain)
	if err != nil {
		return err
	}
	for _, c := range all {
		if c.Name == spec.Name {
			return nil // by an earlier device model of this domain
		}
	}
	c, err := m.tools.AttachStock(ctx, m.domain, spec)
	if err != nil {
		return err
	}
	m.Log.Info("libxl had lost a channel, which is there now", "channel", c.Name, "devid", c.DevID)
	return m.announce(ctx, c)
}

// A guest that boots while it is offered a device may miss it: it is offered again,
// so often, until the guest has looked at it.
const (
	announceTries = 10
	lookWithin    = 4 * time.Second
)

func (m *model) announce(ctx context.Context, c toolstack.Channel) error {
	for range announceTries {
		if err := m.tools.Announce(ctx, c); err != nil {
			return err
		}
		soon, cancel := context.WithTimeout(ctx, lookWithin)
		err := m.Store.WaitUntil(soon, func(r xenstore.Reader) (bool, error) {
			v := xenstore.NewValues(ctx, r)
			return v.Get(c.Frontend+"/state") != xenbus.Initialising.Decimal(), v.Err()
		})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return err
		}
	}
	return fmt.Errorf("the guest does not look at %s", c.Name)
}

// libxlConfig waits for the file in which libxl keeps the domain's configuration.
func (m *model) libxlConfig(ctx context.Context) (name string, text []byte, err error) {
	pattern := filepath.Join(m.UserData, fmt.Sprintf("userdata-d.%v.*.libxl-json", m.DomID))
	for {
		files, err := filepath.Glob(pattern)
		if err != nil {
			return "", nil, err
		}
		if len(files) > 0 {
			text, err := os.ReadFile(files[0])
			return files[0], bytes.TrimRight(text, "\x00"), err // it is a C string
		}
		select {
		case <-time.After(finishPoll):
		case <-ctx.Done():
			return "", nil, fmt.Errorf("%s: %w", pattern, ctx.Err())
		}
	}
}
