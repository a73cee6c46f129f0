package openstack

import "time"

// The three ways OpenStack writes a time, always UTC.
const (
	// formatSeconds is Nova's, Glance's and Neutron's "2026-01-02T15:04:05Z".
	formatSeconds = "2006-01-02T15:04:05Z"
	// formatMicros is Nova's for launched_at, migrations and services: "2026-01-02T15:04:05.000000".
	formatMicros = "2006-01-02T15:04:05.000000"
	// formatMicrosZ is Keystone's "2026-01-02T15:04:05.000000Z".
	formatMicrosZ = "2006-01-02T15:04:05.000000Z"
)

// TimeSeconds writes t as "2026-01-02T15:04:05Z".
func TimeSeconds(t time.Time) string { return t.UTC().Format(formatSeconds) }

// TimeMicros writes t as "2026-01-02T15:04:05.000000", without a zone.
func TimeMicros(t time.Time) string { return t.UTC().Format(formatMicros) }

// TimeMicrosZ writes t as "2026-01-02T15:04:05.000000Z".
func TimeMicrosZ(t time.Time) string { return t.UTC().Format(formatMicrosZ) }

// OptionalTime returns format(t), or nil (JSON null) for the zero time.
func OptionalTime(t time.Time, format func(time.Time) string) any {
	if t.IsZero() {
		return nil
	}
	return format(t)
}
