package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/xenchan/xenchan/internal/doctor"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore"
)

// errSick ends doctor when something is broken; the findings have said what.
var errSick = fmt.Errorf("%w: something is broken", errSilent)

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor [DOMAIN [NAME]]",
		Short: "Find out why a channel does not work",
		Long: `Doctor checks each hop between a program on the host and one in the guest: the
hypervisor's devices, xenstored, the daemon, and then each channel, or those of one
domain, or one: the states of both halves, the socket or terminal, and whether
anybody talks. It names what is broken and the fix. Exit status 1 says that
something is.`,
		Example: `  xenchan doctor
  xenchan doctor web
  xenchan doctor web org.example.agent.0 -o json`,
		Args:              args(0, 2),
		ValidArgsFunction: a.completeChannel,
		RunE: func(cmd *cobra.Command, args []string) error {
			args = append(args, "", "")
			return a.doctor(cmd.Context(), args[0], args[1])
		},
	}
}

func (a *app) doctor(ctx context.Context, domain, name string) error {
	w, err := a.locate()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	findings, err := doctor.Check(ctx, doctor.Host{
		Name:       "host",
		Hypervisor: func(ctx context.Context) (xen.Hypervisor, error) { return a.openHypervisor(ctx, w, 0) },
		Store:      func(ctx context.Context) (*xenstore.Store, error) { return a.openStore(ctx, w) },
		RunDir:     w.runDir(),
		Embedded:   w.dir != "",
	}, domain, name)
	if printErr := a.printFindings(findings); printErr != nil {
		return errors.Join(err, printErr)
	}
	if err != nil {
		return err
	}
	for _, f := range findings {
		if f.Status == doctor.Failed {
			return errSick
		}
	}
	return nil
}

func (a *app) printFindings(findings []doctor.Finding) error {
	if a.output == "json" {
		if findings == nil {
			findings = []doctor.Finding{}
		}
		return a.printJSON(findings)
	}
	for _, f := range findings {
		fmt.Fprintf(a.stdout, "%-8s %s: %s\n", f.Status, printable(f.Subject), printable(f.Detail))
		if f.Fix != "" {
			fmt.Fprintf(a.stdout, "%-8s fix: %s\n", "", f.Fix)
		}
	}
	return nil
}
