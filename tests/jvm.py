"""Options of the JVMs that tests start."""

# They live for seconds or minutes, many on few cores: compiling well what runs once took half of all processor time.
OPTIONS = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
