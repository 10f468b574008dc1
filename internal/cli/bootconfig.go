package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/xenchan/xenchan/agent/mdata"
	"github.com/xenchan/xenchan/internal/bootconfig"
	"github.com/xenchan/xenchan/toolstack"
)

const configExample = `  xenchan config serve web --user-data user.yaml --secret db-password=/root/web.pw
  xenchan config receipts web`

func (a *app) configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Configure a guest at its first boot, without a network",
		Long: `Config gives a guest what it needs at its first boot, over a channel. In the guest,
cloud-init asks for it as on SmartOS, or ` + "`xenchan-guest config fetch`" + ` does.`,
		Example: configExample,
		Args:    args(0, 0),
	}
	cmd.AddCommand(a.configServeCommand(), a.configReceiptsCommand())
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return usagef("unknown command %q%s; they are %s", args[0], didYouMean(args[0], commandNames(cmd)), strings.Join(commandNames(cmd), ", "))
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return usagef("config: which command? They are %s", strings.Join(commandNames(cmd), ", "))
	}
	return cmd
}

// offered are the flags that name files.
type offered struct {
	userData, metaData, vendorData, network string
	keys, secrets                           []string
}

func (a *app) configServeCommand() *cobra.Command {
	var files offered
	var timeout time.Duration
	s := &serving{app: a}
	cmd := &cobra.Command{
		Use:   "serve DOMAIN",
		Short: "Answer what a guest asks at its first boot",
		Long: `Serve answers, over the channel ` + mdata.Channel + `, what a guest asks: in the
metadata protocol of SmartOS that cloud-init speaks. It ends when the guest says that it
is configured (` + "`xenchan-guest config done`" + `), with exit status 1 when the guest says that
this has failed, and with 4 when that takes longer than --timeout. With --keep it goes on.
A guest that reboots meanwhile is waited for, if DOMAIN is a name or a uuid.

A FILE is read once, at the start; - is standard input. What is not given is made up from
the domain: its name is the host's, its uuid the instance-id. A secret is given once, and
a receipt kept; from then on there is no such key for the guest.`,
		Example: `  xenchan config serve web --user-data user.yaml --meta-data meta.yaml --timeout 10m
  xenchan config serve web --key user-script=setup.sh --secret db-password=/root/web.pw
  xenchan config serve web --user-data user.yaml --keep -o json`,
		Args:              args(1, 1),
		ValidArgsFunction: a.completeDomain,
		RunE: func(cmd *cobra.Command, args []string) error {
			if timeout < 0 {
				return usagef("--timeout %v: give a time of 0 or more", timeout)
			}
			w, err := a.locate()
			if err != nil {
				return err
			}
			s.domain, s.receipts = args[0], bootconfig.Receipts{Dir: w.receiptsDir()}
			if s.offer, err = a.readOffer(files); err != nil {
				return usageError{err}
			}
			return s.within(cmd.Context(), timeout)
		},
	}
	f := cmd.Flags()
	f.StringVar(&files.userData, "user-data", "", "`FILE` for cloud-init, such as cloud-config or a script")
	f.StringVar(&files.metaData, "meta-data", "", "`FILE` with instance-id, local-hostname, public-keys, in YAML or JSON")
	f.StringVar(&files.vendorData, "vendor-data", "", "`FILE` like user-data, which user-data overrides")
	f.StringVar(&files.network, "network-config", "", "`FILE` for a NoCloud seed: the guest's network")
	f.StringArrayVar(&files.keys, "key", nil, "`NAME=FILE`: one more value; can be given several times")
	f.StringArrayVar(&files.secrets, "secret", nil, "`NAME=FILE`: a value that is given once; can be given several times")
	f.StringVar(&s.channel, "channel", mdata.Channel, "`NAME` of the channel")
	f.BoolVar(&s.keep, "keep", false, "go on when the guest is configured")
	f.DurationVar(&timeout, "timeout", 0, "`TIME` that the guest has until it is configured, such as 10m; 0 is for\never")
	return cmd
}

// readOffer reads the files.
func (a *app) readOffer(files offered) (*bootconfig.Offer, error) {
	o, stdin := bootconfig.NewOffer(), false
	take := func(flag, path string, set func([]byte) error) error {
		if path == "" {
			return nil
		}
		if path == "-" && stdin {
			return fmt.Errorf("%s: standard input is read already", flag)
		}
		stdin = stdin || path == "-"
		text, err := a.readSource(path, "value for a guest", mdata.MaxValue)
		if err != nil {
			return fmt.Errorf("%s: %w", flag, err)
		}
		if err := set(text); err != nil {
			return fmt.Errorf("%s %s: %w", flag, path, err)
		}
		return nil
	}
	named := func(flag string, pairs []string, set func(string, []byte) error) error {
		for _, pair := range pairs {
			key, path, ok := strings.Cut(pair, "=")
			if !ok || path == "" {
				return fmt.Errorf("%s %s: give NAME=FILE", flag, pair)
			}
			if err := take(flag+" "+key, path, func(v []byte) error { return set(key, v) }); err != nil {
				return err
			}
		}
		return nil
	}
	as := func(key string) func([]byte) error {
		return func(v []byte) error { return o.Set(key, v) }
	}
	return o, errors.Join(
		take("--user-data", files.userData, o.SetUserData),
		take("--meta-data", files.metaData, o.SetMetaData),
		take("--vendor-data", files.vendorData, as(bootconfig.KeyVendorData)),
		take("--network-config", files.network, as(bootconfig.KeyNetwork)),
		named("--key", files.keys, o.Set),
		named("--secret", files.secrets, o.SetSecret),
	)
}

func (a *app) configReceiptsCommand() *cobra.Command {
	var forget string
	cmd := &cobra.Command{
		Use:   "receipts DOMAIN",
		Short: "List the secrets that a guest was given",
		Long: `Receipts lists which secrets a guest was given, and when. They are kept by the domain's
uuid, which stays when it reboots; of a domain that does not run, give the uuid. --forget
removes the receipt for a secret: the next serve will give it once more.`,
		Example:           "  xenchan config receipts web\n  xenchan config receipts web --forget db-password",
		Args:              args(1, 1),
		ValidArgsFunction: a.completeDomain,
		RunE: func(cmd *cobra.Command, args []string) error {
			w, err := a.locate()
			if err != nil {
				return err
			}
			d, err := a.domainOrUUID(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			r := bootconfig.Receipts{Dir: w.receiptsDir()}
			if cmd.Flags().Changed("forget") {
				found, err := r.Forget(cmd.Context(), d, forget)
				if err == nil && !found {
					err = fmt.Errorf("there is no receipt for %q", forget)
				}
				return err
			}
			return a.printReceipts(r, d)
		},
	}
	cmd.Flags().StringVar(&forget, "forget", "", "`NAME` of a secret that is to be given once more")
	return cmd
}

// domainOrUUID is a domain that may not be running.
func (a *app) domainOrUUID(ctx context.Context, want string) (toolstack.Domain, error) {
	tools, err := a.toolstack(ctx)
	if err != nil {
		return toolstack.Domain{}, err
	}
	defer tools.Store.Close()
	d, err := tools.Resolve(ctx, want)
	if errors.Is(err, toolstack.ErrNoDomain) && bootconfig.IsUUID(want) {
		return toolstack.Domain{Name: want, UUID: want}, nil
	}
	return d, err
}

func (a *app) printReceipts(r bootconfig.Receipts, d toolstack.Domain) error {
	all, err := r.List(d)
	if err != nil {
		return err
	}
	if a.output == "json" {
		return a.printJSON(append([]bootconfig.Receipt{}, all...))
	}
	for _, r := range all {
		if _, err := fmt.Fprintf(a.stdout, "%s  %s (domain %d)  %s\n", r.Time.Local().Format(time.DateTime), cell(r.Domain), r.DomID, printable(r.Key)); err != nil {
			return err
		}
	}
	return nil
}
