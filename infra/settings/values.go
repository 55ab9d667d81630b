package settings

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const redacted = "[redacted]"

// Secret is a value that shows itself to nobody but those who call Reveal. The zero Secret is the empty one.
type Secret struct {
	// value is behind a pointer because fmt can't call Format of a Secret in an unexported field: all it can print of
	// this one is an address.
	value *string
}

// NewSecret returns a Secret that holds the value.
func NewSecret(value string) Secret { return Secret{value: &value} }

// Reveal returns the value itself.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// UnmarshalText takes the text as the value, without the space around it that files and consoles leave.
func (s *Secret) UnmarshalText(text []byte) error {
	*s = NewSecret(strings.TrimSpace(string(text)))
	return nil
}

// String tells only whether there is a value.
func (s Secret) String() string {
	if s.Reveal() == "" {
		return ""
	}
	return redacted
}

// GoString is as String.
func (s Secret) GoString() string { return s.String() }

// LogValue is as String.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalJSON is as String.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(strconv.Quote(s.String())), nil }

// Format is as String, whatever the verb: %x and others would pass by it.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// Size is a number of bytes.
type Size int64

var errSize = errors.New("settings: not a size")

var units = []struct {
	suffix string
	factor int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"B", 1}}

// UnmarshalText reads a whole number of bytes, or of KiB, MiB, GiB or TiB.
func (s *Size) UnmarshalText(text []byte) error {
	digits, factor := string(text), int64(1)
	for _, unit := range units {
		if number, found := strings.CutSuffix(digits, unit.suffix); found {
			digits, factor = strings.TrimSpace(number), unit.factor
			break
		}
	}
	number, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || int64(number) > math.MaxInt64/factor {
		return errSize
	}
	*s = Size(int64(number) * factor)
	return nil
}

// String writes the size in the largest unit that leaves a whole number.
func (s Size) String() string {
	text := strconv.FormatInt(int64(s), 10)
	for _, unit := range units[:4] {
		if s != 0 && int64(s)%unit.factor == 0 {
			text = strconv.FormatInt(int64(s)/unit.factor, 10) + unit.suffix
		}
	}
	return text
}

// Rate is how many requests there may be in a time. The zero Rate is no limit.
type Rate struct {
	Requests int
	Per      time.Duration
}

var errRate = errors.New("settings: not a rate")

var periods = map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour}

// UnmarshalText reads a number of requests from 1 to 1,000,000 and s, m or h, with a slash in between.
func (r *Rate) UnmarshalText(text []byte) error {
	number, period, _ := strings.Cut(strings.TrimSpace(string(text)), "/")
	n, err := strconv.Atoi(number)
	per, known := periods[period]
	if err != nil || !known || n < 1 || n > 1_000_000 {
		return errRate
	}
	*r = Rate{Requests: n, Per: per}
	return nil
}

// Budget is how much may be spent on so many days, of which today is the last. The zero Budget is no bound.
type Budget struct {
	Nano int64 // billionths of a dollar
	Days int
}

var (
	errBudget = errors.New("settings: not a budget")
	budget    = regexp.MustCompile(`^([0-9]{1,7}(?:\.[0-9]{1,6})?)usd/([1-9][0-9]?)?d$`)
)

// maxBudgetDays is for how many days it is known what was spent.
const maxBudgetDays = 31

// UnmarshalText reads dollars and a number of days, as 5usd/d or 200usd/30d.
func (b *Budget) UnmarshalText(text []byte) error {
	found := budget.FindStringSubmatch(strings.TrimSpace(string(text)))
	if found == nil {
		return errBudget
	}
	dollars, _ := strconv.ParseFloat(found[1], 64)
	read := Budget{Nano: int64(math.Round(dollars * 1e9)), Days: 1}
	if found[2] != "" {
		read.Days, _ = strconv.Atoi(found[2])
	}
	if read.Nano == 0 || read.Days > maxBudgetDays {
		return errBudget
	}
	*b = read
	return nil
}

// String writes the budget in words.
func (b Budget) String() string {
	text := strconv.FormatFloat(float64(b.Nano)/1e9, 'f', -1, 64) + " USD a day"
	if b.Days != 1 {
		text = strings.TrimSuffix(text, "a day") + "in " + strconv.Itoa(b.Days) + " days"
	}
	return text
}

// Origins are the origins whose pages may read answers, each as browsers send it, or "*" alone for all of them.
type Origins []string

const anyOrigin = "*"

var (
	errOrigins = errors.New("settings: not origins")
	// origin is one as browsers write it: in small letters, without a path. "null", which many share, is none.
	origin = regexp.MustCompile(`^[a-z][a-z0-9+.-]*://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[1-9][0-9]{0,4})?$`)
	// usualPort is what browsers leave out, so that nobody would ever be let in by it.
	usualPort = regexp.MustCompile(`^(http://.*:80|https://.*:443)$`)
)

// UnmarshalText reads comma-separated origins.
func (o *Origins) UnmarshalText(text []byte) error {
	var all Origins
	for one := range strings.SplitSeq(string(text), ",") {
		one = strings.TrimSpace(one)
		if one != anyOrigin && (!origin.MatchString(one) || usualPort.MatchString(one)) {
			return errOrigins
		}
		all = append(all, one)
	}
	if len(all) > 1 && slices.Contains(all, anyOrigin) {
		return errOrigins
	}
	*o = all
	return nil
}
