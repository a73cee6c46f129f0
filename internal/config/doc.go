// Package config is the one description of every setting of godwit: what it is called in the file, in the environment and on the command
// line, what it defaults to and what it means. Documentation, flags and checks all come from the same struct tags.
//
// A setting server.api_listen is, in order of precedence (greatest first):
//
//	--api-listen             a flag of `godwit server`; settings of other sections carry the section: --migration-downtime-max
//	GODWIT_SERVER_API_LISTEN the environment
//	server: {api_listen: …}  the file, /etc/godwit/godwit.yaml or --config or GODWIT_CONFIG
//	the default              the value Default returns
//
// Nothing is guessed: an unknown section, key or GODWIT_<SECTION>_ variable is an error that names the line and the likely spelling.
// Every value, wherever it comes from, is parsed by the same function, so a file, a flag and a variable take the same text.
package config

//go:generate go run ./gendoc ../../docs/configuration.md
