"""API objects on the protobuf wire: JSON form to bytes and back, by the field numbers in the schema table."""

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
