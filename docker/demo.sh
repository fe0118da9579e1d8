#!/usr/bin/env bash
# The three jobs on a standalone cluster, two ranks on two hosts; the folder it is started in must be one that all see.
set -euo pipefail

home=${SPARKDL_HOME:-/opt/sparkdl}
submit=(spark-submit --master "${MASTER:-spark://master:7077}" --conf spark.executor.memory=1g)
submit+=(--conf spark.eventLog.enabled=true --conf "spark.eventLog.dir=file://$PWD/events")
submit+=(--driver-java-options "-Dlog4j2.configurationFile=$home/conf/log4j2.properties")

mkdir -p events
"${submit[@]}" "$home/jobs/prepare.py" "$home/conf/prepare.yaml"
"${submit[@]}" "$home/jobs/train.py" "$home/conf/train.yaml" launch.num_workers=2
"${submit[@]}" "$home/jobs/score.py" "$home/conf/score.yaml"
