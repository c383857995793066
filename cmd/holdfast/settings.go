package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
	"github.com/spf13/pflag"

	"github.com/holdfast-io/holdfast/kafkax"
)

const settingsHelp = `Where Kafka is, and how to get in, is told by flags, by environment variables (HOLDFAST_BROKERS for --brokers,
HOLDFAST_SASL_USER for --sasl-user, and so on), or by a file with lines such as

    brokers = kafka-1:9092, kafka-2:9092
    tls = true
    sasl = scram-sha-512
    sasl-user = operator
    sasl-password = ...

which is the one that --config or HOLDFAST_CONFIG names, or holdfast/config in your configuration directory. A flag
goes before the environment, and that before the file. The password has no flag, for others would see it.`

// passwordSetting is the one setting without a flag.
const passwordSetting = "sasl-password"

// settings says where Kafka is, from flags, environment and file.
type settings struct {
	flags *pflag.FlagSet
	file  map[string]string
}

// names are the settings that have flags of the same name.
func names() []string {
	return []string{"brokers", "tls", "tls-ca", "tls-cert", "tls-key", "sasl", "sasl-user"}
}

func (s *settings) register(flags *pflag.FlagSet) {
	s.flags = flags
	flags.StringP("brokers", "b", "localhost:9092", "brokers to begin with, host:port, separated by commas")
	flags.Bool("tls", false, "encrypt")
	flags.String("tls-ca", "", "file with the certificates to trust instead of the system's")
	flags.String("tls-cert", "", "file with this client's certificate")
	flags.String("tls-key", "", "file with its key")
	flags.String("sasl", "", "how to authenticate: plain, scram-sha-256 or scram-sha-512")
	flags.String("sasl-user", "", "as whom")
	flags.String("config", "", "file with settings")
}

// get looks a setting up.
func (s *settings) get(name string) string {
	if f := s.flags.Lookup(name); f != nil && f.Changed {
		return f.Value.String()
	}
	if value, set := os.LookupEnv(variable(name)); set {
		return value
	}
	if value, set := s.file[name]; set {
		return value
	}
	if f := s.flags.Lookup(name); f != nil {
		return f.DefValue
	}
	return ""
}

func variable(name string) string {
	return "HOLDFAST_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// read reads the file, if there is one.
func (s *settings) read() error {
	path, asked := s.get("config"), true
	if path == "" {
		dir, err := os.UserConfigDir()
		if err != nil {
			return nil // No home, no file.
		}
		path, asked = filepath.Join(dir, "holdfast", "config"), false
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) && !asked {
		return nil
	}
	if err != nil {
		return usage("--config: %w", err)
	}
	defer f.Close()
	s.file = make(map[string]string)
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, found := strings.Cut(line, "=")
		name = strings.TrimSpace(name)
		if !found || name != passwordSetting && !slices.Contains(names(), name) {
			return usage("%s line %d: must be one of %s, then = and its value", path, n, strings.Join(append(names(), passwordSetting), ", "))
		}
		s.file[name] = strings.TrimSpace(value)
	}
	if err := lines.Err(); err != nil {
		return usage("%s: %w", path, err)
	}
	return nil
}

// cluster makes of the settings what the library wants.
func (s *settings) cluster() (kafkax.Cluster, error) {
	if err := s.read(); err != nil {
		return kafkax.Cluster{}, err
	}
	c := kafkax.Cluster{ClientID: "holdfast-tool"}
	for addr := range strings.SplitSeq(s.get("brokers"), ",") {
		c.Brokers = append(c.Brokers, strings.TrimSpace(addr))
	}
	var errs [2]error
	c.TLS, errs[0] = s.tls()
	c.SASL, errs[1] = s.sasl()
	return c, errors.Join(errs[:]...)
}

func (s *settings) tls() (*tls.Config, error) {
	on, err := strconv.ParseBool(s.get("tls"))
	if err != nil {
		return nil, usage("tls must be true or false, got %q", s.get("tls"))
	}
	if !on {
		for _, name := range []string{"tls-ca", "tls-cert", "tls-key"} {
			if s.get(name) != "" {
				return nil, usage("%s is of no use without tls", name)
			}
		}
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if path := s.get("tls-ca"); path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, usage("tls-ca: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(text) {
			return nil, usage("tls-ca: no certificate in %s", path)
		}
	}
	if cert, key := s.get("tls-cert"), s.get("tls-key"); cert != "" || key != "" {
		if cert == "" || key == "" {
			return nil, usage("tls-cert and tls-key must be given together")
		}
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, usage("tls-cert and tls-key: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

func (s *settings) sasl() (sasl.Mechanism, error) {
	user, password := s.get("sasl-user"), s.get(passwordSetting)
	how := s.get("sasl")
	var mechanism sasl.Mechanism
	var err error
	switch how {
	case "":
		if user != "" {
			return nil, usage("sasl-user is of no use without sasl")
		}
		return nil, nil
	case "plain":
		mechanism = plain.Mechanism{Username: user, Password: password}
	case "scram-sha-256":
		mechanism, err = scram.Mechanism(scram.SHA256, user, password)
	case "scram-sha-512":
		mechanism, err = scram.Mechanism(scram.SHA512, user, password)
	default:
		return nil, usage("sasl must be plain, scram-sha-256 or scram-sha-512, got %q", how)
	}
	if err != nil {
		return nil, usage("sasl-user and sasl-password cannot be used for %s", how) // The error may have them in it.
	}
	if user == "" || password == "" {
		return nil, usage("sasl needs sasl-user, and sasl-password by %s or the file", variable(passwordSetting))
	}
	return mechanism, nil
}
