package image

// The JSON schemas Glance serves: the glance client builds its models from them, and dashboards their forms.

type schema = map[string]any

func imageSchema() map[string]any {
	return schema{
		"name":                 "image",
		"properties":           imageProperties(),
		"additionalProperties": schema{"type": "string"},
		"links": []schema{
			{"rel": "self", "href": "{self}"}, {"rel": "enclosure", "href": "{file}"}, {"rel": "describedby", "href": "{schema}"},
		},
	}
}

const uuidPattern = "^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$"

func imageProperties() schema {
	return schema{
		"id":               schema{"type": "string", "description": "An identifier for the image", "pattern": uuidPattern},
		"name":             schema{"type": []string{"null", "string"}, "description": "Descriptive name for the image", "maxLength": nameRunesMax},
		"status":           readOnlySchema("string", "Status of the image", "enum", []string{"queued", "saving", "active", "killed", "deleted", "deactivated"}),
		"visibility":       schema{"type": "string", "description": "Scope of image accessibility", "enum": visibilities},
		"protected":        schema{"type": "boolean", "description": "If true, image will not be deletable."},
		"os_hidden":        schema{"type": "boolean", "description": "If true, image will not appear in default image list response."},
		"checksum":         readOnlySchema([]string{"null", "string"}, "md5 hash of image contents.", "maxLength", 32),
		"os_hash_algo":     readOnlySchema([]string{"null", "string"}, "Algorithm to calculate the os_hash_value", "maxLength", 64),
		"os_hash_value":    readOnlySchema([]string{"null", "string"}, "Hexdigest of the image contents using the algorithm specified by the os_hash_algo", "maxLength", 128),
		"owner":            schema{"type": []string{"null", "string"}, "description": "Owner of the image", "maxLength": nameRunesMax},
		"size":             readOnlySchema([]string{"null", "integer"}, "Size of image file in bytes"),
		"virtual_size":     readOnlySchema([]string{"null", "integer"}, "Virtual size of image in bytes"),
		"container_format": schema{"type": []string{"null", "string"}, "description": "Format of the container", "enum": []any{nil, "bare"}},
		"disk_format":      schema{"type": []string{"null", "string"}, "description": "Format of the disk", "enum": []any{nil, "raw", "qcow2"}},
		"created_at":       readOnlySchema("string", "Date and time of image registration"),
		"updated_at":       readOnlySchema("string", "Date and time of the last image modification"),
		"tags": schema{"type": "array", "description": "List of strings related to the image",
			"items": schema{"type": "string", "maxLength": nameRunesMax}},
		"min_ram":  sizeSchema("Amount of ram (in MB) required to boot image."),
		"min_disk": sizeSchema("Amount of disk space (in GB) required to boot image."),
		"self":     readOnlySchema("string", "An image self url"),
		"file":     readOnlySchema("string", "An image file url"),
		"schema":   readOnlySchema("string", "An image schema url"),
	}
}

func readOnlySchema(kind any, text string, more ...any) schema {
	out := schema{"type": kind, "readOnly": true, "description": text}
	for n := 0; n+1 < len(more); n += 2 {
		out[more[n].(string)] = more[n+1]
	}
	return out
}

func sizeSchema(text string) schema {
	return schema{"type": "integer", "description": text, "minimum": 0, "maximum": minSizeMax}
}

func imagesSchema() map[string]any {
	return schema{
		"name": "images",
		"properties": schema{
			"images": schema{"type": "array", "items": imageSchema()},
			"first":  schema{"type": "string"}, "next": schema{"type": "string"}, "schema": schema{"type": "string"},
		},
		"links": []schema{{"rel": "first", "href": "{first}"}, {"rel": "next", "href": "{next}"}, {"rel": "describedby", "href": "{schema}"}},
	}
}

func memberSchema() map[string]any {
	return schema{
		"name": "member",
		"properties": schema{
			"created_at": schema{"type": "string", "description": "Date and time of image member creation"},
			"image_id":   schema{"type": "string", "description": "An identifier for the image", "pattern": uuidPattern},
			"member_id":  schema{"type": "string", "description": "An identifier for the image member (tenantId)"},
			"status":     schema{"type": "string", "description": "The status of this image member", "enum": []string{memberPending, memberAccepted, memberRejected}},
			"updated_at": schema{"type": "string", "description": "Date and time of last modification of image member"},
			"schema":     schema{"type": "string", "readOnly": true},
		},
	}
}

func membersSchema() map[string]any {
	return schema{
		"name": "members",
		"properties": schema{
			"members": schema{"type": "array", "items": memberSchema()},
			"schema":  schema{"type": "string"},
		},
		"links": []schema{{"rel": "describedby", "href": "{schema}"}},
	}
}
