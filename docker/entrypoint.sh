#!/usr/bin/env bash
# What a container of sparkdl runs: Kubernetes says `driver …` or `executor`, people and compose say a command.
set -euo pipefail

case ${1:-} in
  driver)
    set -- spark-submit --deploy-mode client --conf "spark.driver.bindAddress=$SPARK_DRIVER_BIND_ADDRESS" "${@:2}"
    ;;
  executor)
    # Spark on Kubernetes hands over the executor's Java options as SPARK_JAVA_OPT_0, SPARK_JAVA_OPT_1, …
    options=()
    for ((place = 0; ; place++)); do
      name=SPARK_JAVA_OPT_$place
      [[ -n ${!name:-} ]] || break
      options+=("${!name}")
    done
    path=${SPARK_CONF_DIR:-$SPARK_HOME/conf}:$SPARK_HOME/jars/*${SPARK_CLASSPATH:+:$SPARK_CLASSPATH}
    set -- "$JAVA_HOME/bin/java" "${options[@]}" "-Xms$SPARK_EXECUTOR_MEMORY" "-Xmx$SPARK_EXECUTOR_MEMORY" -cp "$path" \
      org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend \
      --driver-url "$SPARK_DRIVER_URL" --executor-id "$SPARK_EXECUTOR_ID" --cores "$SPARK_EXECUTOR_CORES" \
      --app-id "$SPARK_APPLICATION_ID" --hostname "$SPARK_EXECUTOR_POD_IP" \
      --resourceProfileId "$SPARK_RESOURCE_PROFILE_ID" --podName "$SPARK_EXECUTOR_POD_NAME"
    ;;
  "") set -- spark-submit --help ;;
esac
exec tini -s -- "$@"
