package cli

import (
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/channel/convert"
)

func (a *app) convertCommand() *cobra.Command {
	var to, into string
	forms := make([]string, len(convert.Forms()))
	for i, f := range convert.Forms() {
		forms[i] = string(f)
	}
	cmd := &cobra.Command{
		Use:   "convert FILE (--to FORM | --into FILE)",
		Short: "Print the channels of a configuration in another form",
		Long: `Convert reads the channels of a domain's configuration, whatever its form, and
prints them in another. FILE may be - for standard input.

  --to xl       channel = [ ... ], for an xl.cfg
  --to libvirt  <channel> elements, for <devices> in libvirt's XML
  --to json     as libxl writes them: "xl -N create" and "xl list -l"

With --into it prints that xl.cfg or libvirt XML with these channels in place of
its own. Every other byte stays as it is, and so do the channels that are the same.

A definition of KVM (target type 'virtio') is a way to begin: its channels become
Xen's. What has no like on Xen is left out, and warnings say all that is changed.
What libvirt's <channel> has no place for, as mode or spool, is put into <metadata>,
which libvirt keeps and xenchan reads.`,
		Example: `  xenchan convert /etc/xen/web.cfg --to libvirt
  virsh dumpxml --inactive web | xenchan convert - --to xl
  xenchan convert kvm.xml --into web.cfg >new.cfg`,
		Args: args(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			switch {
			case to == "" && into == "":
				return usagef("say what to convert to: --to %s, or --into FILE", strings.Join(forms, ", --to "))
			case to != "" && !slices.Contains(forms, to):
				return usagef("--to %s: the forms are %s%s", to, strings.Join(forms, ", "), didYouMean(to, forms))
			case into == "-" && args[0] == "-":
				return usagef("standard input cannot be both files")
			}
			return a.convert(args[0], convert.Form(to), into)
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "the `FORM` to print: "+strings.Join(forms, ", "))
	cmd.Flags().StringVar(&into, "into", "", "print this `FILE` with the channels in it")
	cmd.RegisterFlagCompletionFunc("to", cobra.FixedCompletions(forms, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (a *app) convert(path string, to convert.Form, into string) error {
	file, err := a.parseConfig(path)
	if err != nil {
		return err
	}
	channels, warnings, err := file.Channels()
	for _, w := range warnings {
		switch {
		case !w.Note:
			a.warn("warning: %s", w.String())
		case file.Form != convert.XL: // whose notes are about xl's versions
			a.warn("note: %s", w.String())
		}
	}
	if err != nil {
		return a.reportErrors(err)
	}
	specs := make([]channel.Spec, len(channels))
	for i, l := range channels {
		specs[i] = l.Spec
	}
	var text string
	if into == "" {
		text, err = convert.Format(to, specs)
	} else {
		text, to, err = a.convertInto(into, to, specs)
	}
	if err != nil {
		return err
	}
	if to != file.Form {
		for _, w := range convert.Warnings(to, specs) {
			a.warn("warning: %s", w)
		}
	}
	_, err = io.WriteString(a.stdout, text)
	return err
}

// convertInto is the text of a file with specs in it, and its form.
func (a *app) convertInto(path string, to convert.Form, specs []channel.Spec) (string, convert.Form, error) {
	file, err := a.parseConfig(path)
	if err != nil {
		return "", "", err
	}
	if to != "" && to != file.Form {
		return "", "", usagef("%s has the form %s, not %s: leave --to away", path, file.Form, to)
	}
	text, err := file.Replace(specs)
	if err != nil {
		return "", "", a.reportErrors(err)
	}
	return text, file.Form, nil
}
