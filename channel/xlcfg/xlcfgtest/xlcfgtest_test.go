package xlcfgtest

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/xenchan/xenchan/channel/xlcfg"
)

var update = flag.Bool("update", false, "write testdata/generated.txt")

// stock is what xenchan says that xl makes of src.
func stock(src []byte) Verdict {
	f, err := xlcfg.Parse("f.cfg", src)
	if err != nil {
		return Verdict{Outcome: Refused}
	}
	specs, _, err := xlcfg.Stock(f, xlcfg.Version{})
	if err != nil {
		return Verdict{Outcome: Refused}
	}
	v := Verdict{Outcome: Accepted}
	printed, err := json.Marshal(specs)
	if err != nil {
		panic(err)
	}
	if err := json.Unmarshal(printed, &v.Channels); err != nil {
		panic(err)
	}
	return v
}

func TestStock_agreesWithXL(t *testing.T) {
	cases := Cases(t)
	if len(cases) < 300 {
		t.Errorf("%d cases", len(cases))
	}
	for _, c := range cases {
		c.Judge(t, stock(c.Source))
	}
}

// The generated cases are those of the generator, so that it makes more of the same.
func TestGenerate(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Made by TestGenerate, see go test -update.\n\n")
	for i, text := range generate(1, 60) {
		fmt.Fprintf(&b, "%02d %s\n", i, strconv.QuoteToASCII(text))
	}
	if *update {
		if err := os.WriteFile("testdata/generated.txt", []byte(b.String()), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	stored, err := os.ReadFile("testdata/generated.txt")
	if err != nil || string(stored) != b.String() {
		t.Errorf("testdata/generated.txt is not what generate makes: %v", err)
	}
}
