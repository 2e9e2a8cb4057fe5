-- One database a service: none reads another's. PostgreSQL runs this once, when its volume is new.
-- begin databases: made by `make gen` from contracts/services.py
CREATE DATABASE feature_store;
CREATE DATABASE trainer;
CREATE DATABASE model_registry;
CREATE DATABASE ethics_audit;
CREATE DATABASE inference;
-- end databases
-- MLflow's, of the trainer's alone.
CREATE DATABASE mlflow;
